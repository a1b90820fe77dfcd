import { fsSuite } from './fs-suite.js';

fsSuite('fuse-native', { milliseconds: true, utf8Only: true, shortInodes: true, serialLookups: true });
