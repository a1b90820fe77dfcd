/** Milliseconds since 1970, with fractions. Never runs backwards, and is the same in all threads of a process. */
export const wallClock = (): number => performance.timeOrigin + performance.now();
