// Go's net/http. "early": the listener is made, which puts the socket into the runtime's epoll set, and the program
// waits for something else before it serves; "late": the listener is made when that has come.
package main

import (
	"io"
	"net"
	"net/http"
	"os"
	"syscall"
)

func listen() net.Listener {
	listener, err := net.FileListener(os.NewFile(3, "listener"))
	if err != nil {
		panic(err)
	}
	return listener
}

func main() {
	var listener net.Listener
	early := os.Args[1] == "early"
	if early {
		listener = listen()
	}
	// Non-blocking, so that the runtime waits in epoll_wait, as it does for the answer of a database.
	syscall.SetNonblock(4, true)
	goAhead, news := os.NewFile(4, "go"), os.NewFile(5, "news")
	news.WriteString("h")
	goAhead.Read(make([]byte, 1))
	news.WriteString("s")
	if !early {
		listener = listen()
	}
	http.Serve(listener, http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) { io.WriteString(w, "hello") }))
}
