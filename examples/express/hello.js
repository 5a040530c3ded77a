// A small Express application that works with and without lithos.
//
// Started by lithos, or by systemd, it gets the listening socket as descriptor 3, shared with all other instances;
// started by hand it opens port 8000 itself.
'use strict';

const express = require('express');

const { LISTEN_FDS, LITHOS_NAME = 'a plain process', VERSION = '0' } = process.env;

const app = express();

app.get('/', (request, response) => {
  response.type('text/plain').send(`Hello from ${LITHOS_NAME}, version ${VERSION}\n`);
});

const server = app.listen(LISTEN_FDS === '1' ? { fd: 3 } : 8000);

// Accept nobody any more, finish what is in hand, and end each kept connection with its next answer.
process.on('SIGTERM', () => {
  server.prependListener('request', (request, response) => response.setHeader('Connection', 'close'));
  server.keepAliveTimeout = 1000; // ms; for those whose answer was under way, less than the 5 s that we have
  server.close();
  server.closeIdleConnections(); // Node 19 and newer do so in close()
});
