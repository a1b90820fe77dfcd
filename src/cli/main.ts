#!/usr/bin/env node
import { Interrupts } from './interrupts.js';
import { createProgram, runProgram } from './program.js';
import { Terminal } from './terminal.js';

using interrupts = new Interrupts();
const cli = { terminal: new Terminal(), interrupts };
process.exitCode = await runProgram(createProgram(cli), process.argv.slice(2), cli);
