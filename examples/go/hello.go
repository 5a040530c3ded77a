// A small web server on net/http that works with and without lithos.
//
// Started by lithos, or by systemd, it gets the listening socket as descriptor 3, shared with all other instances;
// started by hand it opens port 8000 itself.
package main

import (
	"context"
	"fmt"
	"log"
	"net"
	"net/http"
	"os"
	"os/signal"
	"syscall"
)

func variable(name, otherwise string) string {
	if value, ok := os.LookupEnv(name); ok {
		return value
	}
	return otherwise
}

func hello(w http.ResponseWriter, _ *http.Request) {
	fmt.Fprintf(w, "Hello from %s, version %s\n", variable("LITHOS_NAME", "a plain process"), variable("VERSION", "0"))
}

func listen() (net.Listener, error) {
	if os.Getenv("LISTEN_FDS") != "1" {
		return net.Listen("tcp", ":8000")
	}
	file := os.NewFile(3, "socket")
	defer file.Close() // FileListener has made a copy
	return net.FileListener(file)
}

// notify says how we are to whoever has started us, if they want to know; see sd_notify(3).
func notify(state string) error {
	address := os.Getenv("NOTIFY_SOCKET")
	if address == "" {
		return nil
	}
	connection, err := net.Dial("unixgram", address)
	if err != nil {
		return err
	}
	defer connection.Close()
	_, err = connection.Write([]byte(state))
	return err
}

func serve() error {
	stop, restore := signal.NotifyContext(context.Background(), syscall.SIGTERM, os.Interrupt)
	defer restore()
	listener, err := listen()
	if err != nil {
		return err
	}
	server := &http.Server{}
	failed := make(chan error, 1)
	go func() { failed <- server.Serve(listener) }()
	if err := notify("READY=1"); err != nil {
		return err
	}
	select {
	case err := <-failed:
		return err
	case <-stop.Done():
		return server.Shutdown(context.Background()) // returns when every request is answered
	}
}

func main() {
	http.HandleFunc("/", hello)
	if err := serve(); err != nil {
		log.Fatal(err)
	}
}
