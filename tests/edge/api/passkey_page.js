// Somebody at a real browser, with a security key that Chromium makes up (CDP's WebAuthn domain): opens what they are told to,
// and uses their passkey. Says what the page said, and what it sent where, a JSON value a line.
const { chromium } = require('playwright-core');
const lines = require('node:readline').createInterface({ input: process.stdin })[Symbol.asyncIterator]();
const say = (value) => console.log(JSON.stringify(value));

(async () => {
  const browser = await chromium.launch({
    executablePath: '/usr/bin/chromium',
    args: ['--no-sandbox', '--disable-gpu', '--disable-quic', '--no-first-run', '--disable-background-networking',
      '--disable-component-update', '--disable-sync', '--ignore-certificate-errors', '--host-resolver-rules=MAP db.test 127.0.0.1'],
  });
  const page = await browser.newPage({ ignoreHTTPSErrors: true });
  page.setDefaultTimeout(60000);
  const faults = [];
  page.on('console', (message) => {  // of the CSP, say; that a link is over is said by a 404
    if (message.type() === 'error' && !message.text().includes('status of 404')) faults.push(message.text());
  });
  await page.route('http://127.0.0.1:40000/**', (route) => route.fulfill({ body: 'done' }));  // who waits at a terminal
  const cdp = await page.context().newCDPSession(page);
  await cdp.send('WebAuthn.enable');
  await cdp.send('WebAuthn.addVirtualAuthenticator', { options: {
    protocol: 'ctap2', transport: 'usb', hasResidentKey: false, hasUserVerification: true, isUserVerified: true,
    automaticPresenceSimulation: true,
  } });
  for await (const url of lines) {
    await page.goto('about:blank');  // a link that differs in what follows the # alone would be the same page
    await page.goto(url);
    const button = page.getByRole('button', { name: 'Use your passkey' });
    await page.locator('#said:not(:text-matches("One moment"))').waitFor();
    const said = await page.locator('body').innerText();
    if (!(await button.isVisible())) {
      say({ said });
      continue;
    }
    await button.click();
    await page.waitForURL(/^http:\/\/127\.0\.0\.1/);
    say({ said, target: page.url(), faults });
  }
  await browser.close();
})().catch((error) => { console.error(error); process.exit(1); });
