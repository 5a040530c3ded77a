// For `node --require`: at SIGUSR2 the program takes all the memory that it can get.
'use strict';

process.on('SIGUSR2', () => {
  const hoard = [];
  for (;;) hoard.push(Buffer.alloc(1 << 20, 1));
});
