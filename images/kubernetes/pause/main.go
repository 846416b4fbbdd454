// The pause container's process, which holds a pod's namespaces open until it receives a signal.
package main

import (
	"os"
	"os/signal"
	"syscall"
)

func main() {
	// If SIGCHLD is ignored, the kernel reaps orphaned processes.
	signal.Ignore(syscall.SIGCHLD)
	end := make(chan os.Signal, 1)
	signal.Notify(end, syscall.SIGINT, syscall.SIGTERM)
	<-end
}
