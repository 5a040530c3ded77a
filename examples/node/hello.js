// A small web server on node:http that works with and without lithos.
//
// Started by lithos, or by systemd, it gets the listening socket as descriptor 3, shared with all other instances;
// started by hand it opens port 8000 itself.
'use strict';

const http = require('node:http');

const { LISTEN_FDS, LITHOS_NAME = 'a plain process', VERSION = '0' } = process.env;

const server = http.createServer((request, response) => {
  const page = `Hello from ${LITHOS_NAME}, version ${VERSION}\n`;
  response.writeHead(200, { 'Content-Type': 'text/plain', 'Content-Length': Buffer.byteLength(page) });
  response.end(page);
});

server.listen(LISTEN_FDS === '1' ? { fd: 3 } : { port: 8000 });

// Accept nobody any more, finish what is in hand, and end each kept connection with its next answer.
process.on('SIGTERM', () => {
  server.prependListener('request', (request, response) => response.setHeader('Connection', 'close'));
  server.keepAliveTimeout = 1000; // ms; for those whose answer was under way, less than the 5 s that we have
  server.close();
  server.closeIdleConnections(); // Node 19 and newer do so in close()
});
