// A day with the example application, in a real browser. Says what it sees, a JSON value a line, and where the other side
// has to do something, waits for a line from it.
const { chromium } = require('playwright-core');
const readline = require('node:readline').createInterface({ input: process.stdin });
const lines = readline[Symbol.asyncIterator]();
const say = (value) => console.log(JSON.stringify(value));
const [origin, handbook, report, screenshot] = process.argv.slice(2);
const password = 'correct horse battery';

(async () => {
  const browser = await chromium.launch({
    executablePath: '/usr/bin/chromium',
    args: ['--no-sandbox', '--disable-gpu', '--disable-quic', '--no-first-run', '--disable-background-networking',
      '--disable-component-update', '--disable-sync'],
  });
  const faults = [];
  const begin = async () => {
    const page = await browser.newPage({ baseURL: origin, viewport: { width: 1000, height: 900 } });
    page.setDefaultTimeout(60000);
    page.on('console', (message) => message.type() === 'error' && faults.push(message.text()));  // of the CSP, say
    return page;
  };
  const signUp = async (page, email) => {
    await page.goto('/');
    await page.getByRole('link', { name: 'Sign up' }).click();
    await page.getByLabel('E-mail address').fill(email);
    await page.getByLabel('Password').fill(password);
    await page.getByRole('button', { name: 'Make my database' }).click();
    await page.getByText('There is none yet.').waitFor();
  };
  const add = async (page, file) => {
    await page.getByLabel('Text, Markdown or PDF').setInputFiles(file);
    await page.getByRole('button', { name: 'Add' }).click();
    await page.locator('.documents').getByText(file.split('/').pop()).waitFor();
  };
  const ask = async (page, question) => {
    await page.getByLabel('Your question').fill(question);
    await page.getByRole('button', { name: 'Ask' }).click();
    const answer = page.locator('.answer');
    await answer.waitFor();
    return {
      said: await answer.locator('.said').innerText(),
      sources: await answer.locator('.source').allInnerTexts(),
      quotes: await answer.locator('blockquote').allInnerTexts(),
    };
  };

  const alice = await begin();
  await signUp(alice, 'alice@example.com');
  await add(alice, handbook);
  await add(alice, report);
  say(await ask(alice, 'The oven says E4. What do I do?'));
  if (screenshot) await alice.screenshot({ path: screenshot });
  say(await ask(alice, 'How much did the new refrigerator cost?'));
  say(await ask(alice, 'Who won the chess championship of 1972?'));

  const bob = await begin();
  await signUp(bob, 'bob@example.com');
  await add(bob, report);
  say(await ask(bob, 'The oven says E4. What do I do?'));

  say('put them to sleep');
  await lines.next();
  say(await ask(alice, 'When is the starter fed?'));
  say(faults);

  // What another site's page could send, with the cookie and without the token.
  const forged = await alice.request.post('/account/delete', { form: { password } });
  const foreign = await alice.request.post('/log-out', { form: {}, headers: { Origin: 'https://evil.example' } });
  say([forged.status(), foreign.status()]);

  const cookies = await alice.context().cookies();
  await alice.getByRole('button', { name: 'Log out' }).click();
  await alice.getByRole('link', { name: 'Make an account' }).waitFor();
  await alice.context().addCookies(cookies);  // the old session is worth nothing any more
  await alice.goto('/');
  await alice.getByRole('link', { name: 'Log in' }).click();
  const logIn = async (secret) => {
    await alice.getByLabel('E-mail address').fill('alice@example.com');
    await alice.getByLabel('Password').fill(secret);
    await alice.getByRole('button', { name: 'Log in' }).click();
  };
  await logIn('not my password');
  say(await alice.getByRole('alert').innerText());
  await logIn(password);
  await alice.locator('.documents').getByText('handbook.md').waitFor();

  await alice.getByRole('link', { name: 'Delete account' }).click();
  await alice.getByLabel('Your password').fill(password);
  await alice.getByRole('button', { name: 'Delete for good' }).click();
  say(await alice.getByRole('status').innerText());
  await browser.close();
  process.exit(0);
})().catch((error) => { console.error(error); process.exit(1); });
