import { Interrupts } from './interrupts.js';
import { createProgram, runProgram } from './program.js';
import { Terminal } from './terminal.js';

/** One command line in this process, which ends with its status. */
export async function runMain(args: readonly string[]): Promise<void> {
  using interrupts = new Interrupts();
  const cli = { terminal: new Terminal(), interrupts };
  process.exitCode = await runProgram(await createProgram(cli, args), args, cli);
}
