package main

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"os"
	"os/exec"
	"runtime"
	"strconv"
	"strings"
	"time"

	"github.com/spf13/cobra"

	"hatchery/controller/page"
)

func newPage(s *settings) *cobra.Command {
	st := &station{settings: s}
	var token, renew, open bool
	var port uint16
	c := &cobra.Command{
		Use:   "page",
		Short: "Show where the cluster's page is, or bring it here through ssh",
		Long: `page prints where the controller's page is had. With --on it brings it to this
machine: as long as it runs, the page is at the address that it prints, through ssh,
as on the controller itself.

Everybody who reaches the page may look. What can be done there takes the operator's
token, which --token prints, and which the page asks for. --new-token makes
another, in place of one that somebody has who should not.`,
		Example: `  hatchery page --on hammond              # until ^C: http://127.0.0.1:7480/
  hatchery page --on hammond --open       # in the browser
  hatchery page --on hammond --token      # what the page asks for
  hatchery page                           # on the controller: the addresses`,
		Args: noArgs,
		RunE: func(c *cobra.Command, _ []string) error {
			here := func(ctx context.Context) error {
				client := page.Client{Caller: st.service()}
				if !token && !renew {
					return printPage(ctx, c.OutOrStdout(), client, s.json)
				}
				get := client.Token
				if renew {
					get = client.NewToken
				}
				text, err := get(ctx)
				if err != nil {
					return err
				}
				if s.json {
					return printJSON(c.OutOrStdout(), page.TokenAnswer{Token: text})
				}
				return printLine(c.OutOrStdout(), "%s", text)
			}
			switch {
			case token && renew || (token || renew) && (open || port != 0):
				return usageError{errors.New("--token and --new-token print a token, each alone, and bring no page here")}
			case renew:
				return st.run(c, []string{"page", "--new-token"}, here)
			case token:
				return st.run(c, []string{"page", "--token"}, here)
			case st.on == "" && (open || port != 0):
				return usageError{errors.New("--open and --port are of the page that comes through ssh: name the controller with --on")}
			case st.on == "" || s.json:
				return st.run(c, []string{"page"}, here)
			}
			return st.forwardPage(c.Context(), c.OutOrStdout(), c.ErrOrStderr(), port, open)
		},
	}
	st.flags(c)
	flags := c.Flags()
	flags.BoolVar(&token, "token", false, "print the operator's token, which actions take")
	flags.BoolVar(&renew, "new-token", false, "make another token, and print it: the old one opens nothing any more")
	flags.BoolVar(&open, "open", false, "with --on: show it in the browser")
	flags.Uint16Var(&port, "port", 0, "with --on: the `PORT` here (default: 7480, or another if that is taken)")
	return c
}

func printPage(ctx context.Context, w io.Writer, client page.Client, asJSON bool) error {
	v, err := client.View(ctx)
	if err != nil {
		return err
	}
	if asJSON {
		return printJSON(w, v)
	}
	lines := []string{
		fmt.Sprintf("%-38s on the controller itself; from elsewhere, `hatchery page --on HOST`", v.Loopback),
		fmt.Sprintf("%-38s on the slots' network, to look at", v.Inner),
	}
	for i, url := range v.LAN {
		text := "on all networks (the authority is identity/ca.crt beside cluster.yaml)"
		if i > 0 {
			text = "the same"
		}
		lines = append(lines, fmt.Sprintf("%-38s %s", url, text))
	}
	if v.Trouble != "" {
		lines = append(lines, "Not on the LAN: "+v.Trouble)
	}
	for _, l := range lines {
		if err := printLine(w, "%s", harmless(l)); err != nil {
			return err
		}
	}
	return nil
}

// forwardTime is how long the page may take to answer once ssh forwards to it.
const forwardTime = 20 * time.Second

// forwardPage brings the page to this machine by ssh, until ctx ends.
func (st *station) forwardPage(ctx context.Context, stdout, stderr io.Writer, port uint16, open bool) error {
	local, err := freePort(port)
	if err != nil {
		return err
	}
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	var command []string
	if config := st.config(); isFile(config) {
		command = append(command, "-F", config)
	}
	at := net.JoinHostPort("127.0.0.1", strconv.Itoa(local))
	// -N: no command, so that no account needs a shell or sudo for it.
	command = append(command, "-N", "-o", "ExitOnForwardFailure=yes", "-o", "ServerAliveInterval=15",
		"-L", at+":"+net.JoinHostPort("127.0.0.1", strconv.Itoa(page.Port)), st.on)
	ssh := exec.CommandContext(ctx, "ssh", command...)
	// It has a moment to close the connection.
	ssh.Cancel = func() error { return ssh.Process.Signal(os.Interrupt) }
	if runtime.GOOS == "windows" {
		ssh.Cancel = func() error { return ssh.Process.Kill() }
	}
	ssh.WaitDelay = 5 * time.Second
	var said tail
	ssh.Stdin, ssh.Stderr = os.Stdin, io.MultiWriter(stderr, &said)
	if err := ssh.Start(); err != nil {
		return st.ended(err, "")
	}
	ended := make(chan error, 1)
	go func() { ended <- ssh.Wait() }()

	url := "http://" + at + "/"
	answers := make(chan error, 1)
	go func() { answers <- awaitPage(ctx, at, url) }()
	for {
		select {
		case err := <-answers:
			switch {
			case ctx.Err() != nil:
				answers = nil
				continue
			case err != nil:
				cancel()
				<-ended
				return fmt.Errorf("ssh reaches %s, and the page does not answer there: %w (see `systemctl status hatchery` on it)", st.on, err)
			}
			answers = nil
			if err := printLine(stdout, "%s", url); err != nil {
				cancel()
				<-ended
				return err
			}
			fmt.Fprintf(stderr, "As long as this runs (^C ends it). Actions take the token: hatchery page --token --on %s\n", harmless(st.on))
			if open {
				if err := showURL(ctx, url); err != nil {
					fmt.Fprintf(stderr, "hatchery: warning: no browser was started: %v\n", err)
				}
			}
		case err := <-ended:
			if ctx.Err() != nil {
				return nil // ^C is how this ends
			}
			if err == nil {
				err = fmt.Errorf("the connection to %s was closed", st.on)
			}
			return st.ended(err, said.String())
		}
	}
}

// freePort is a port of this machine that nobody listens on: the wanted one; for
// 0 the page's own, or any.
func freePort(want uint16) (int, error) {
	tries := []int{int(want)}
	if want == 0 {
		tries = []int{page.Port, 0}
	}
	var err error
	for _, try := range tries {
		var l net.Listener
		if l, err = net.Listen("tcp4", net.JoinHostPort("127.0.0.1", strconv.Itoa(try))); err == nil {
			defer l.Close()
			return l.Addr().(*net.TCPAddr).Port, nil
		}
	}
	return 0, fmt.Errorf("port %d cannot be had on this machine: %w (name another with --port)", want, err)
}

// awaitPage waits for ssh to listen, which takes as long as somebody takes to
// type a passphrase, and for the page to answer through it.
func awaitPage(ctx context.Context, at, url string) error {
	dialer := net.Dialer{Timeout: time.Second}
	for {
		conn, err := dialer.DialContext(ctx, "tcp4", at)
		if err == nil {
			conn.Close()
			break
		}
		select {
		case <-ctx.Done():
			return ctx.Err()
		case <-time.After(100 * time.Millisecond):
		}
	}
	ctx, cancel := context.WithTimeout(ctx, forwardTime)
	defer cancel()
	request, err := http.NewRequestWithContext(ctx, http.MethodGet, url+strings.TrimPrefix(page.PathIcon, "/"), nil)
	if err != nil {
		return err
	}
	// A proxy of this machine's has no business with its own addresses.
	client := http.Client{Transport: &http.Transport{DisableKeepAlives: true}}
	answer, err := client.Do(request)
	if err != nil {
		return err
	}
	answer.Body.Close()
	if answer.StatusCode != http.StatusOK {
		return fmt.Errorf("it answers %s", answer.Status)
	}
	return nil
}

// showURL shows a page in the user's browser.
func showURL(ctx context.Context, url string) error {
	var command []string
	switch runtime.GOOS {
	case "darwin":
		command = []string{"open", url}
	case "windows":
		command = []string{"rundll32", "url.dll,FileProtocolHandler", url}
	default:
		command = []string{"xdg-open", url}
	}
	browser := exec.CommandContext(context.WithoutCancel(ctx), command[0], command[1:]...)
	if err := browser.Start(); err != nil {
		return err
	}
	go func() { _ = browser.Wait() }() // it may run as long as the browser does
	return nil
}
