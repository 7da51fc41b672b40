// Command registry is the controller's registry of container images (package
// imageregistry), where cluster.yaml has `registry: true`. It is a program of its own:
// hatchery stays small for those who have none, and what it takes from the network
// is parsed away from the service that holds the cluster together.
package main

import (
	"context"
	"errors"
	"flag"
	"fmt"
	"io"
	"net"
	"net/http"
	"os"
	"os/signal"
	"path/filepath"
	"runtime/debug"
	"strconv"
	"syscall"
	"time"

	"golang.org/x/sys/unix"

	"hatchery/controller/imageregistry"
	"hatchery/firstboot/systemd"
	"hatchery/internal/clusterctrl"
	"hatchery/internal/enrol"
	"hatchery/internal/nodefile"
)

// Exit codes, as hatchery has them.
const (
	exitDone   = 0
	exitFailed = 1
	exitUsage  = 2
)

const usage = `usage: registry [command] [flags]

  run   serve the cluster's images and the cache of Docker Hub (what
        hatchery-registry.service does, and the default)
  get   say, as Docker's credential helpers do, who the cache is to Docker Hub:
        nobody in particular

Flags of run, for other places than a controller's own:
  -config DIR, -state DIR, -address ADDRESS, -upstream URL
`

func main() {
	// A controller may be a Zero too.
	debug.SetGCPercent(50)
	debug.SetMemoryLimit(64 << 20)
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt, syscall.SIGTERM)
	code := run(ctx, os.Args[1:], os.Stdout, os.Stderr)
	stop()
	os.Exit(code)
}

func run(ctx context.Context, args []string, stdout, stderr io.Writer) int {
	command := "run"
	if len(args) > 0 && args[0] != "" && args[0][0] != '-' {
		command, args = args[0], args[1:]
	}
	var config, state, address, upstream string
	flags := flag.NewFlagSet("registry", flag.ContinueOnError)
	flags.SetOutput(io.Discard)
	flags.StringVar(&config, "config", nodefile.ConfigDir, "")
	flags.StringVar(&state, "state", nodefile.StateDir, "")
	flags.StringVar(&address, "address", clusterctrl.ControllerAddr().String(), "")
	flags.StringVar(&upstream, "upstream", imageregistry.DockerHub, "")
	err := flags.Parse(args)
	switch {
	case errors.Is(err, flag.ErrHelp), command == "help":
		fmt.Fprint(stdout, usage)
		return exitDone
	case err == nil && flags.NArg() > 0:
		err = fmt.Errorf("%q is one word too many", flags.Arg(0))
	}
	if err != nil {
		fmt.Fprintf(stderr, "registry: %v\n\n%s", err, usage)
		return exitUsage
	}
	switch command {
	case "run":
		err = serve(ctx, config, state, address, upstream, stderr)
	case "get":
		_, err = fmt.Fprintln(stdout, `{"ServerURL":"","Username":"","Secret":""}`)
	default:
		fmt.Fprintf(stderr, "registry: there is no command %q\n\n%s", command, usage)
		return exitUsage
	}
	if err != nil {
		fmt.Fprintln(stderr, "registry:", err)
		return exitFailed
	}
	return exitDone
}

func serve(ctx context.Context, config, state, address, upstream string, stderr io.Writer) error {
	id, err := enrol.LoadIdentity(filepath.Join(config, filepath.Base(enrol.IdentityDir)))
	if err != nil {
		return err
	}
	self, err := os.Executable()
	if err != nil {
		return err
	}
	// What distribution asks the upstream with. Where there is no way to it, engines
	// wait for the cache only to be told so.
	http.DefaultTransport = &http.Transport{
		Proxy:       http.ProxyFromEnvironment,
		DialContext: (&net.Dialer{Timeout: 5 * time.Second}).DialContext, TLSHandshakeTimeout: 10 * time.Second,
		ResponseHeaderTimeout: 30 * time.Second, IdleConnTimeout: 90 * time.Second, MaxIdleConnsPerHost: 4,
	}
	service, err := imageregistry.New(imageregistry.Options{
		Dir: filepath.Join(state, "registry"), Identity: id, Revocations: filepath.Join(state, "controller", "registry.json"),
		Upstream: upstream, Helper: self, Log: systemd.Logger(stderr),
	})
	if err != nil {
		return err
	}
	// br0 may get its address later than this starts.
	listen := net.ListenConfig{Control: func(_, _ string, c syscall.RawConn) error {
		var set error
		err := c.Control(func(fd uintptr) { set = unix.SetsockoptInt(int(fd), unix.IPPROTO_IP, unix.IP_FREEBIND, 1) })
		return errors.Join(err, set)
	}}
	var listeners []net.Listener
	for _, port := range []int{imageregistry.Port, imageregistry.MirrorPort} {
		l, err := listen.Listen(ctx, "tcp4", net.JoinHostPort(address, strconv.Itoa(port)))
		if err != nil {
			return errors.Join(err, service.Close())
		}
		defer l.Close()
		listeners = append(listeners, l)
	}
	if err := systemd.Ready(); err != nil {
		return errors.Join(err, service.Close())
	}
	return service.Serve(ctx, listeners[0], listeners[1])
}
