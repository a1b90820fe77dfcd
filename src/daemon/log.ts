import { pino, type Logger } from 'pino';

export type { Logger } from 'pino';

/** JSON lines on stdout, which the daemon's starter has pointed at its log; written at once, so that a crash loses none. */
export function createLogger(level: string, name: string): Logger {
  return pino({ level, name, timestamp: pino.stdTimeFunctions.isoTime }, pino.destination({ fd: 1, sync: true }));
}
