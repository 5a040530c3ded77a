// Node's http server; "early": it listens, and then blocks before its loop can run; "late": the loop runs first.
const fs = require("fs");
const http = require("http");

const LISTENER = 3, GO = 4, NEWS = 5;
const server = http.createServer((_request, response) => response.end("hello"));

if (process.argv[2] === "early") {
  server.listen({ fd: LISTENER });
  fs.writeSync(NEWS, "h");
  fs.readSync(GO, Buffer.alloc(1));
  fs.writeSync(NEWS, "s");
} else {
  fs.writeSync(NEWS, "h");
  fs.read(GO, Buffer.alloc(1), () => {
    fs.writeSync(NEWS, "s");
    server.listen({ fd: LISTENER });
  });
}
