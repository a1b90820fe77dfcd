import { execFile } from 'node:child_process';
import { readFile, writeFile } from 'node:fs/promises';
import { join } from 'node:path';
import { promisify } from 'node:util';
import { temporaryDirectory } from './temporary.js';

const run = promisify(execFile);

export interface TestCertificates {
  /** Of the directory that all of them lie in. */
  readonly directory: string;
  /** Paths. */
  readonly ca: string;
  readonly clientCert: string;
  readonly clientKey: string;
  /** PEM texts: of the server, and of the authority that client certificates are held against. */
  readonly cert: string;
  readonly key: string;
  readonly caText: string;
}

/**
 * A certificate authority with one certificate for a server (127.0.0.1, localhost and `name`) and one for a client, made by the
 * openssl command in a temporary directory that goes with the test.
 */
export async function makeCertificates(
  t: { teardown: (fn: () => Promise<void>) => void },
  name = 'localhost',
): Promise<TestCertificates> {
  const directory = await temporaryDirectory(t, 'tls');
  const path = (file: string) => join(directory, file);
  const openssl = (...args: string[]) => run('openssl', args, { cwd: directory });
  const keyArgs = ['-newkey', 'ec', '-pkeyopt', 'ec_paramgen_curve:P-256', '-nodes'];
  await openssl(
    'req',
    '-x509',
    ...keyArgs,
    '-keyout',
    'ca.key',
    '-out',
    'ca.pem',
    '-days',
    '2',
    '-subj',
    '/CN=test CA',
  );
  for (const [who, subject] of [
    ['server', name],
    ['client', 'test client'],
  ]) {
    await writeFile(path(`${who}.ext`), `subjectAltName=IP:127.0.0.1,DNS:localhost,DNS:${name}\n`);
    await openssl('req', '-new', ...keyArgs, '-keyout', `${who}.key`, '-out', `${who}.csr`, '-subj', `/CN=${subject}`);
    const ca = ['-CA', 'ca.pem', '-CAkey', 'ca.key', '-CAcreateserial'];
    const out = ['-out', `${who}.pem`, '-days', '2', '-extfile', `${who}.ext`];
    await openssl('x509', '-req', '-in', `${who}.csr`, ...ca, ...out);
  }
  return {
    directory,
    ca: path('ca.pem'),
    clientCert: path('client.pem'),
    clientKey: path('client.key'),
    cert: await readFile(path('server.pem'), 'utf8'),
    key: await readFile(path('server.key'), 'utf8'),
    caText: await readFile(path('ca.pem'), 'utf8'),
  };
}
