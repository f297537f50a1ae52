// An OpenID Connect issuer of somebody else's (oidc-provider), on the loopback interface, for the tests of logins.
// It prints its address when it is ready, and ends when its standard input does.
//
//   node issuer.mjs KEY.pem CHAIN.pem

import { readFileSync } from 'node:fs';
import { createServer } from 'node:https';
import Provider from 'oidc-provider';

const people = {
  eve: { email: 'eve@example.com', email_verified: true, name: 'Eve', groups: ['dba', 'everybody'] },
  dan: { email: 'dan@example.com', email_verified: true, name: 'Dan' },
};

const server = createServer({ key: readFileSync(process.argv[2]), cert: readFileSync(process.argv[3]) });
server.listen(0, '127.0.0.1', () => {
  const issuer = `https://127.0.0.1:${server.address().port}`;
  const provider = new Provider(issuer, {
    clients: [{
      client_id: 'cloister',
      client_secret: 'shared with the issuer:/ %',
      application_type: 'native',
      redirect_uris: ['http://127.0.0.1/login/company'],
      grant_types: ['authorization_code'],
      response_types: ['code'],
      token_endpoint_auth_method: 'client_secret_basic',
    }],
    claims: { openid: ['sub'], email: ['email', 'email_verified'], profile: ['name', 'groups'] },
    conformIdTokenClaims: false,
    pkce: { required: () => true },
    cookies: { keys: ['a test'] },
    features: { devInteractions: { enabled: true } },
    findAccount: async (_, sub) => ({ accountId: sub, claims: async () => ({ sub, ...people[sub] }) }),
  });
  server.on('request', provider.callback());
  console.log(issuer);
});
process.stdin.resume();
process.stdin.on('end', () => process.exit(0));
