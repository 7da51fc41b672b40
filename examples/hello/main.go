// Command hello says which machine it runs on, again and again, and answers
// the same over HTTP: enough to see where a swarm has put a service's tasks,
// and whom its routing mesh asks.
//
//	hello from p1: linux/arm
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
	"runtime"
	"syscall"
	"time"
)

func main() {
	// A container's first process is sent SIGTERM, which does nothing to it
	// unless it listens.
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt, syscall.SIGTERM)
	code := run(ctx, os.Args[1:], os.Getenv, os.Stdout, os.Stderr)
	stop()
	os.Exit(code)
}

const (
	exitDone = iota
	exitFailed
	exitUsage
)

const usage = `hello says which machine it runs on, again and again, and answers the same
over HTTP.

Usage: hello [FLAGS]

  --every 5s       how long it waits between two lines; HELLO_EVERY is the same
  --listen :8080   the address that it answers at; HELLO_LISTEN is the same
  --ask URL        ask another hello, print its answer and end; the exit code
                   says whether there was one (a health check where an image
                   has no shell)
  --help           this text
`

// The shortest time between two lines that is taken: a typing error should
// not fill a card with logs.
const shortest = 100 * time.Millisecond

// patience is how long a client may take for anything, and --ask for all.
const patience = 10 * time.Second

// settings are what flags and environment say; flags win.
type settings struct {
	every  time.Duration
	listen string
	ask    string
}

func run(ctx context.Context, args []string, getenv func(string) string, stdout, stderr io.Writer) int {
	s, err := read(args, getenv)
	switch {
	case errors.Is(err, flag.ErrHelp):
		fmt.Fprint(stdout, usage)
		return exitDone
	case err != nil:
		fmt.Fprintf(stderr, "hello: %v; see hello --help\n", err)
		return exitUsage
	}
	if s.ask != "" {
		err = ask(ctx, s.ask, stdout)
	} else {
		err = greet(ctx, s, stdout)
	}
	if err != nil {
		fmt.Fprintf(stderr, "hello: %v\n", err)
		return exitFailed
	}
	return exitDone
}

func read(args []string, getenv func(string) string) (*settings, error) {
	s := &settings{every: 5 * time.Second, listen: ":8080"}
	if text := getenv("HELLO_EVERY"); text != "" {
		every, err := time.ParseDuration(text)
		if err != nil {
			return nil, fmt.Errorf("HELLO_EVERY: %q is no time such as 5s", text)
		}
		s.every = every
	}
	if text := getenv("HELLO_LISTEN"); text != "" {
		s.listen = text
	}
	flags := flag.NewFlagSet("hello", flag.ContinueOnError)
	flags.SetOutput(io.Discard)
	flags.DurationVar(&s.every, "every", s.every, "")
	flags.StringVar(&s.listen, "listen", s.listen, "")
	flags.StringVar(&s.ask, "ask", "", "")
	switch err := flags.Parse(args); {
	case err != nil:
		return nil, err
	case flags.NArg() > 0:
		return nil, fmt.Errorf("%q is no flag", flags.Arg(0))
	case s.every < shortest:
		return nil, fmt.Errorf("%s between two lines is less than %s", s.every, shortest)
	}
	return s, nil
}

// greet prints the line and answers with it until ctx ends.
func greet(ctx context.Context, s *settings, stdout io.Writer) error {
	host, err := os.Hostname()
	if err != nil {
		return fmt.Errorf("cannot tell which machine this is: %w", err)
	}
	line := fmt.Sprintf("hello from %s: %s/%s\n", host, runtime.GOOS, runtime.GOARCH)
	listener, err := net.Listen("tcp", s.listen)
	if err != nil {
		return fmt.Errorf("cannot answer at %s: %w", s.listen, err)
	}
	server := &http.Server{
		Handler: http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) {
			w.Header().Set("Content-Type", "text/plain; charset=utf-8")
			_, _ = io.WriteString(w, line) // who hung up wants no answer
		}),
		ReadTimeout:  patience,
		WriteTimeout: patience,
		IdleTimeout:  patience,
	}
	ended := make(chan error, 1)
	go func() { ended <- server.Serve(listener) }()
	// What is answered is one line: nothing is worth waiting for.
	defer server.Close()
	tick := time.NewTicker(s.every)
	defer tick.Stop()
	for {
		if _, err := io.WriteString(stdout, line); err != nil {
			return fmt.Errorf("cannot print: %w", err)
		}
		select {
		case <-ctx.Done():
			return nil
		case err := <-ended:
			return fmt.Errorf("cannot answer at %s any more: %w", s.listen, err)
		case <-tick.C:
		}
	}
}

// ask prints what another one answers.
func ask(ctx context.Context, url string, stdout io.Writer) error {
	ctx, cancel := context.WithTimeout(ctx, patience)
	defer cancel()
	request, err := http.NewRequestWithContext(ctx, http.MethodGet, url, nil)
	if err != nil {
		return fmt.Errorf("cannot ask %s: %w", url, err)
	}
	response, err := http.DefaultClient.Do(request)
	if err != nil {
		return fmt.Errorf("no answer: %w", err)
	}
	defer response.Body.Close()
	if response.StatusCode != http.StatusOK {
		return fmt.Errorf("%s answers %s", url, response.Status)
	}
	const most = 4 << 10
	if _, err := io.Copy(stdout, io.LimitReader(response.Body, most)); err != nil {
		return fmt.Errorf("the answer of %s broke off: %w", url, err)
	}
	return nil
}
