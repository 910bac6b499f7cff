// An authorization server of npm's oidc-provider (OpenID Certified), for tests. It prints the port that it has taken on
// the loopback. Lines on standard input command it: "rotate" makes a new key and publishes the old one beside it,
// "drop" takes the old one away. Each is answered by the same word.
import { generateKeyPairSync, randomUUID } from 'node:crypto';
import http from 'node:http';
import readline from 'node:readline';
import * as oidc from 'oidc-provider';

console.info = console.error; // standard output is for answers

const Provider = oidc.Provider ?? oidc.default;
const audience = process.env.AUDIENCE;
const format = process.env.FORMAT ?? 'jwt';

const newKey = () => ({
  ...generateKeyPairSync('rsa', { modulusLength: 2048 }).privateKey.export({ format: 'jwk' }),
  kid: randomUUID(), use: 'sig', alg: 'RS256',
});

const client = (client_id, scope) => ({
  client_id, scope, client_secret: `secret-of-${client_id}-which-is-long-enough`, grant_types: ['client_credentials'], redirect_uris: [], response_types: [],
});

// What asks about tokens with a key in place of a secret, if there is one.
const asking = process.env.ASKING_KEY
  ? [{ ...client('tollgate-key', 'text'), client_secret: undefined, token_endpoint_auth_method: 'private_key_jwt', jwks: { keys: [JSON.parse(process.env.ASKING_KEY)] } }]
  : [];

let keys = [newKey()];
let issuer;
let answer;

const build = () => {
  const provider = new Provider(issuer, {
    jwks: { keys },
    scopes: ['text', 'image', 'audio', 'chat'],
    clients: [client('reports', 'text image'), client('designer', 'image'), client('tollgate', 'text'), ...asking],
    features: {
      devInteractions: { enabled: false },
      clientCredentials: { enabled: true },
      introspection: { enabled: true, allowedPolicy: () => true },
      revocation: { enabled: true, allowedPolicy: () => true },
      resourceIndicators: {
        enabled: true,
        defaultResource: () => audience,
        useGrantedResource: () => true,
        getResourceServerInfo: () => ({
          audience, scope: 'text image audio chat', accessTokenTTL: 300, accessTokenFormat: format, jwt: { sign: { alg: 'RS256' } },
        }),
      },
    },
  });
  answer = provider.callback();
};

const server = http.createServer((request, response) => answer(request, response));
server.listen(0, '127.0.0.1', () => {
  const { port } = server.address();
  issuer = `http://127.0.0.1:${port}`;
  build();
  console.log(port);
});

readline.createInterface({ input: process.stdin }).on('line', (line) => {
  if (line === 'rotate') keys = [newKey(), keys[0]];
  if (line === 'drop') keys = [keys[0]];
  build();
  console.log(line);
}).on('close', () => process.exit(0));
