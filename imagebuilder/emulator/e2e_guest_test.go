package emulator_test

import (
	"bytes"
	"context"
	"crypto/ed25519"
	"crypto/rand"
	"encoding/json"
	"encoding/pem"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/url"
	"os"
	"strconv"
	"strings"
	"time"

	"golang.org/x/crypto/ssh"
	"golang.org/x/crypto/ssh/knownhosts"
)

// A log-in takes an emulated Zero 5 to 15 seconds when nobody else works.
const (
	logInLimit   = 150 * time.Second
	commandLimit = 120 * time.Second
)

// An account is who logs in to guests, and how he knows them.
type account struct {
	user  string
	key   ssh.Signer
	hosts ssh.HostKeyCallback
}

// makeKey makes a user's key: a line of authorized_keys, and the private one as
// OpenSSH has it.
func makeKey() (line, private []byte, err error) {
	public, key, err := ed25519.GenerateKey(rand.Reader)
	if err != nil {
		return nil, nil, err
	}
	sshKey, err := ssh.NewPublicKey(public)
	if err != nil {
		return nil, nil, err
	}
	block, err := ssh.MarshalPrivateKey(key, "e2e")
	if err != nil {
		return nil, nil, err
	}
	return ssh.MarshalAuthorizedKey(sshKey), pem.EncodeToMemory(block), nil
}

// readAccount reads a private key, and the host keys that a build wrote.
func readAccount(user, key, knownHosts string) (*account, error) {
	data, err := os.ReadFile(key)
	if err != nil {
		return nil, err
	}
	a := &account{user: user}
	if a.key, err = ssh.ParsePrivateKey(data); err != nil {
		return nil, err
	}
	a.hosts, err = knownhosts.New(knownHosts)
	return a, err
}

// A guestShell is a log-in that is kept open for everything that is asked of a
// guest, since the log-in is what takes long.
type guestShell struct {
	name   string
	client *ssh.Client
}

// logIn logs in by a connection to the guest's sshd, whose key must be the one
// that the build gave to the host of that name.
func (a *account) logIn(ctx context.Context, name string, dial func(ctx context.Context) (net.Conn, error)) (*guestShell, error) {
	ctx, cancel := context.WithTimeout(ctx, logInLimit)
	defer cancel()
	conn, err := dial(ctx)
	if err != nil {
		return nil, fmt.Errorf("cannot reach %s: %w", name, err)
	}
	stop := context.AfterFunc(ctx, func() { conn.Close() })
	defer stop()
	c, channels, requests, err := ssh.NewClientConn(conn, net.JoinHostPort(name, "22"), &ssh.ClientConfig{
		User: a.user, Auth: []ssh.AuthMethod{ssh.PublicKeys(a.key)},
		HostKeyCallback: a.hosts, HostKeyAlgorithms: []string{ssh.KeyAlgoED25519},
	})
	if err != nil {
		conn.Close()
		return nil, fmt.Errorf("cannot log in to %s: %w", name, err)
	}
	return &guestShell{name, ssh.NewClient(c, channels, requests)}, nil
}

// run runs a command there and gives what it prints, stdout and stderr
// together.
func (g *guestShell) run(ctx context.Context, command string) (string, error) {
	ctx, cancel := context.WithTimeout(ctx, commandLimit)
	defer cancel()
	return g.give(ctx, command, nil)
}

// give runs a command there that reads what it is given, and takes as long as ctx lets it.
func (g *guestShell) give(ctx context.Context, command string, input io.Reader) (string, error) {
	var out bytes.Buffer
	err := func() error {
		session, err := g.session(ctx)
		if err != nil {
			return err
		}
		stop := context.AfterFunc(ctx, func() { session.Close() })
		defer stop()
		defer session.Close()
		session.Stdin = input
		session.Stdout = &out
		// Not the same buffer: the session copies the two side by side.
		var errs bytes.Buffer
		session.Stderr = &errs
		err = session.Run(command)
		out.Write(errs.Bytes())
		return err
	}()
	if ctx.Err() != nil {
		err = fmt.Errorf("it did not end: %w", context.Cause(ctx))
	}
	if err != nil {
		return out.String(), fmt.Errorf("%s: %s: %w\n%s", g.name, command, err, out.String())
	}
	return out.String(), nil
}

// session opens one. A guest that hangs takes the request and says nothing, so
// that it is waited for beside.
func (g *guestShell) session(ctx context.Context) (*ssh.Session, error) {
	type opened struct {
		session *ssh.Session
		err     error
	}
	done := make(chan opened, 1)
	go func() {
		session, err := g.client.NewSession()
		done <- opened{session, err}
	}()
	select {
	case o := <-done:
		return o.session, o.err
	case <-ctx.Done():
		return nil, context.Cause(ctx)
	}
}

// dial connects from there.
func (g *guestShell) dial(ctx context.Context, network, address string) (net.Conn, error) {
	return g.client.DialContext(ctx, network, address)
}

func (g *guestShell) close() {
	if g != nil {
		g.client.Close()
	}
}

// httpBy makes HTTP requests by connections that dial makes; alone: each by one
// of its own.
func httpBy(dial func(ctx context.Context, network, address string) (net.Conn, error), alone bool) *http.Client {
	return &http.Client{Transport: &http.Transport{DialContext: dial, DisableKeepAlives: alone, DisableCompression: true, MaxIdleConns: 1}}
}

// An engine is a guest's Docker, asked by its API: the command line costs an
// emulated Zero a second a call, a request nearly nothing.
type engine struct{ client *http.Client }

func (g *guestShell) engine() engine {
	return engine{httpBy(func(ctx context.Context, _, _ string) (net.Conn, error) {
		return g.dial(ctx, "unix", "/var/run/docker.sock")
	}, false)}
}

func (e engine) get(ctx context.Context, path string, query url.Values, answer any) error {
	ctx, cancel := context.WithTimeout(ctx, commandLimit)
	defer cancel()
	at := url.URL{Scheme: "http", Host: "docker", Path: path, RawQuery: query.Encode()}
	request, err := http.NewRequestWithContext(ctx, http.MethodGet, at.String(), nil)
	if err != nil {
		return err
	}
	response, err := e.client.Do(request)
	if err != nil {
		return err
	}
	defer response.Body.Close()
	body, err := io.ReadAll(response.Body)
	if err != nil {
		return err
	}
	if response.StatusCode != http.StatusOK {
		return fmt.Errorf("docker answers %s to %s: %s", response.Status, path, body)
	}
	return json.Unmarshal(body, answer)
}

// A member is an entry of the swarm's list (Docker Engine API, Node).
type member struct {
	ID   string
	Spec struct {
		Availability string
		Labels       map[string]string
	}
	Description struct{ Hostname string }
	Status      struct{ State, Addr string }
}

func (e engine) members(ctx context.Context) ([]member, error) {
	var all []member
	return all, e.get(ctx, "/nodes", nil, &all)
}

// named are the entries with a host name.
func named(all []member, hostname string) []member {
	var some []member
	for _, m := range all {
		if m.Description.Hostname == hostname {
			some = append(some, m)
		}
	}
	return some
}

// A task is one of a service's (Docker Engine API, Task).
type task struct {
	ID, NodeID string
	Status     struct {
		State, Err string
	}
}

// tasks are those of a service that ought to run.
func (e engine) tasks(ctx context.Context, service string) ([]task, error) {
	filters, err := json.Marshal(map[string][]string{"service": {service}, "desired-state": {"running"}})
	if err != nil {
		return nil, err
	}
	var all []task
	return all, e.get(ctx, "/tasks", url.Values{"filters": {string(filters)}}, &all)
}

// clock asks for a guest's time, and gives by how much it is ahead of this
// machine's, and how far that may be from the truth.
func (g *guestShell) clock(ctx context.Context) (ahead, within time.Duration, now time.Time, err error) {
	asked := time.Now()
	out, err := g.run(ctx, "date +%s.%N")
	if err != nil {
		return 0, 0, time.Time{}, err
	}
	took := time.Since(asked)
	if now, err = parseUnix(strings.TrimSpace(out)); err != nil {
		return 0, 0, time.Time{}, fmt.Errorf("%s: %w", g.name, err)
	}
	return now.Sub(asked.Add(took / 2)), took / 2, now, nil
}

// parseUnix reads SECONDS.NANOSECONDS, as date(1) writes it.
func parseUnix(text string) (time.Time, error) {
	whole, part, _ := strings.Cut(text, ".")
	seconds, err := strconv.ParseInt(whole, 10, 64)
	if err != nil {
		return time.Time{}, fmt.Errorf("%q is no time", text)
	}
	nanos, err := strconv.ParseInt(part, 10, 64)
	if err != nil || len(part) != 9 {
		return time.Time{}, fmt.Errorf("%q is no time", text)
	}
	return time.Unix(seconds, nanos), nil
}

// errSilent is of an address at which nobody answered.
var errSilent = errors.New("no answer")

// ask asks the test app at an address and gives whom the answer names.
func ask(ctx context.Context, client *http.Client, address string, patience time.Duration) (host string, err error) {
	ctx, cancel := context.WithTimeout(ctx, patience)
	defer cancel()
	request, err := http.NewRequestWithContext(ctx, http.MethodGet, "http://"+address+"/", nil)
	if err != nil {
		return "", err
	}
	response, err := client.Do(request)
	if err != nil {
		return "", fmt.Errorf("%w: %w", errSilent, err)
	}
	defer response.Body.Close()
	body, err := io.ReadAll(io.LimitReader(response.Body, 4<<10))
	if err != nil {
		return "", fmt.Errorf("%w: %w", errSilent, err)
	}
	return greeter(string(body))
}

// greeter is the host that a line of the test app names, if it runs there as
// it should.
func greeter(line string) (string, error) {
	rest, ok := strings.CutPrefix(strings.TrimSpace(line), "hello from ")
	host, platform, ok2 := strings.Cut(rest, ": ")
	if !ok || !ok2 || host == "" || strings.ContainsAny(host, " \n") {
		return "", fmt.Errorf("%q is no answer of the test app", line)
	}
	if platform != "linux/arm" {
		return "", fmt.Errorf("%s answers as %s, not as linux/arm", host, platform)
	}
	return host, nil
}
