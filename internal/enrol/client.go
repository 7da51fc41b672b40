package enrol

import (
	"bytes"
	"context"
	"crypto/rand"
	"crypto/tls"
	"crypto/x509"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/http/httptrace"
	"net/netip"
	"net/url"
	"strconv"
	"strings"
	"sync"
	"time"
)

// The time limits, for a link of 60 kB/s and a Pi Zero whose one CPU is busy
// with its first boot: a handshake takes it seconds then.
const (
	dialTime      = 15 * time.Second
	handshakeTime = time.Minute
	answerTime    = time.Minute     // from the request to the answer's first byte
	callTime      = 3 * time.Minute // all of a call
	idleTime      = 90 * time.Second
)

// ClientOptions is what a client may be told. The zero value is right on a
// node.
type ClientOptions struct {
	// Port is where the other end listens; 0 for [Port].
	Port uint16
	// Local is the address to call from; the zero value leaves it to the
	// routes.
	Local netip.Addr
	// Now is the clock that certificates are judged by; nil for the system's.
	Now func() time.Time
	// Others are the addresses of other controllers, where there are several. A
	// call that the first does not answer, or cannot answer for the moment, goes to
	// them. They are called from whatever address leads there.
	Others []netip.Addr
}

// A Client makes a node's calls to its controller. It may be used by several
// at once.
type Client struct {
	id      *Identity
	where   netip.AddrPort
	others  []netip.AddrPort
	options ClientOptions
	through func(*tls.Config) http.RoundTripper // makes connections

	mu    sync.Mutex
	calls *http.Client // whose connections are kept between calls
}

// NewClient is a client of the controller at an address, with one [ClientOptions]
// at most. It connects when it is asked something.
func NewClient(id *Identity, controller netip.Addr, options ...ClientOptions) *Client {
	c := &Client{id: id}
	if len(options) > 0 {
		c.options = options[0]
	}
	if c.options.Port == 0 {
		c.options.Port = Port
	}
	c.where = netip.AddrPortFrom(controller, c.options.Port)
	for _, other := range c.options.Others {
		c.others = append(c.others, netip.AddrPortFrom(other, c.options.Port))
	}
	c.through = c.transport
	c.calls = c.client(ClientTLS(id, controllerSlot))
	return c
}

func (c *Client) client(config *tls.Config) *http.Client {
	return &http.Client{
		Transport:     c.through(config),
		CheckRedirect: func(*http.Request, []*http.Request) error { return http.ErrUseLastResponse },
	}
}

func (c *Client) transport(config *tls.Config) http.RoundTripper {
	config.Time = c.options.Now
	dialer := &net.Dialer{
		Timeout:         dialTime,
		KeepAliveConfig: net.KeepAliveConfig{Enable: true, Idle: 15 * time.Second, Interval: 5 * time.Second, Count: 4},
	}
	dial := dialer.DialContext
	if c.options.Local.IsValid() {
		own := *dialer
		own.LocalAddr = &net.TCPAddr{IP: c.options.Local.AsSlice()}
		dial = func(ctx context.Context, network, address string) (net.Conn, error) {
			if address == c.where.String() {
				return own.DialContext(ctx, network, address)
			}
			return dialer.DialContext(ctx, network, address)
		}
	}
	protocols := new(http.Protocols)
	protocols.SetHTTP1(true)
	return &http.Transport{
		// No proxy: the environment has no say in where a token comes from.
		Proxy:                  nil,
		DialContext:            dial,
		TLSClientConfig:        config,
		TLSHandshakeTimeout:    handshakeTime,
		ResponseHeaderTimeout:  answerTime,
		MaxResponseHeaderBytes: 16 << 10,
		MaxConnsPerHost:        4,
		IdleConnTimeout:        idleTime,
		DisableCompression:     true,
		Protocols:              protocols,
	}
}

// HTTP is the client's own connection, for calls that this package does not
// make. It has no limit for the whole of a call; the context does that.
// Addresses begin with [Client.URL].
func (c *Client) HTTP() *http.Client {
	c.mu.Lock()
	defer c.mu.Unlock()
	return c.calls
}

// URL is the address of a path at the other end.
func (c *Client) URL(path string) string { return "https://" + c.where.String() + path }

// Reset lets go of every connection, so that the next call makes a new one:
// after the clock was set, and after the link came back.
func (c *Client) Reset() {
	c.mu.Lock()
	old := c.calls
	c.calls = c.client(ClientTLS(c.id, controllerSlot))
	c.mu.Unlock()
	old.CloseIdleConnections()
}

// A Reading is the controller's time, as an answer told it.
type Reading struct {
	// At is the controller's time at the moment Received. It is half of
	// RoundTrip off at the most.
	At time.Time
	// Received is the own clock's, with its monotonic reading.
	Received time.Time
	// RoundTrip is from the request's last byte to the answer's first.
	RoundTrip time.Duration
}

// Now is the controller's time by now, whatever was done to the own clock in
// between.
func (r Reading) Now() time.Time { return r.At.Add(time.Since(r.Received)) }

// Time asks the controller for the time. It is the one call that ignores the
// dates of certificates; the answer must be to this very question.
func (c *Client) Time(ctx context.Context) (Reading, error) {
	// A connection of its own, that no other call gets to use.
	once := c.client(datelessTLS(c.id))
	defer once.CloseIdleConnections()

	nonce := rand.Text()
	var mu sync.Mutex // the trace's functions are called by the transport's goroutines
	var sent, first time.Time
	ctx = httptrace.WithClientTrace(ctx, &httptrace.ClientTrace{
		WroteRequest:         func(httptrace.WroteRequestInfo) { mu.Lock(); sent = time.Now(); mu.Unlock() },
		GotFirstResponseByte: func() { mu.Lock(); first = time.Now(); mu.Unlock() },
	})
	var answer TimeAnswer
	if err := c.call(ctx, once, http.MethodGet, PathTime+"?nonce="+nonce, nil, &answer, MaxRequest); err != nil {
		return Reading{}, fmt.Errorf("cannot get the time: %w", err)
	}
	if answer.Nonce != nonce {
		return Reading{}, fmt.Errorf("cannot get the time: the controller at %s answered another question than was asked", c.where)
	}
	mu.Lock()
	defer mu.Unlock()
	r := Reading{Received: first, RoundTrip: max(first.Sub(sent), 0)}
	r.At = time.Unix(0, answer.UnixNanos).UTC().Add(r.RoundTrip / 2)
	return r, nil
}

// Generations tells another controller which generations are accepted here, and
// gives which are there.
func (c *Client) Generations(ctx context.Context, own Generations) (*Generations, error) {
	answer := new(Generations)
	if err := c.call(ctx, c.HTTP(), http.MethodPost, PathGenerations, own, answer, MaxAnswer); err != nil {
		return nil, fmt.Errorf("cannot tell the controller which generations are accepted: %w", err)
	}
	return answer, nil
}

// Join asks the controller what to do about the swarm. The answer is checked:
// with an action that joins it has a token and an address.
func (c *Client) Join(ctx context.Context, request JoinRequest) (*JoinAnswer, error) {
	request.Swarm.Error = tidy(request.Swarm.Error)
	answer := new(JoinAnswer)
	if err := c.call(ctx, c.HTTP(), http.MethodPost, PathJoin, request, answer, MaxRequest); err != nil {
		return nil, fmt.Errorf("cannot ask to join: %w", err)
	}
	if err := answer.check(); err != nil {
		return nil, fmt.Errorf("cannot use what the controller at %s answered: %w", c.where, err)
	}
	return answer, nil
}

// Status tells the controller where this node stands.
func (c *Client) Status(ctx context.Context, report StatusReport) (*StatusAnswer, error) {
	report.Detail = tidy(report.Detail)
	report.Swarm.Error = tidy(report.Swarm.Error)
	answer := new(StatusAnswer)
	if err := c.call(ctx, c.HTTP(), http.MethodPost, PathStatus, report, answer, MaxRequest); err != nil {
		return nil, fmt.Errorf("cannot report to the controller: %w", err)
	}
	return answer, nil
}

// Cluster asks the controller how the cluster is.
func (c *Client) Cluster(ctx context.Context) (*ClusterView, error) {
	answer := new(ClusterView)
	if err := c.call(ctx, c.HTTP(), http.MethodGet, PathCluster, nil, answer, MaxAnswer); err != nil {
		return nil, fmt.Errorf("cannot ask how the cluster is: %w", err)
	}
	return answer, nil
}

// call makes one call: the request's body, where there is one, and the answer
// are JSON. An answer that is not 2xx becomes an *Error. Where there are other
// controllers, the call goes on to them; if none has an answer, the error is the
// first one's.
func (c *Client) call(ctx context.Context, client *http.Client, method, path string, body, answer any, most int64) error {
	err := c.callAt(ctx, c.where, client, method, path, body, answer, most)
	if err == nil || !elsewhere(err) {
		return err
	}
	for _, other := range c.others {
		if ctx.Err() != nil {
			break
		}
		next := c.callAt(ctx, other, client, method, path, body, answer, most)
		if next == nil {
			return nil
		}
		if !elsewhere(next) {
			return next
		}
	}
	return err
}

// elsewhere says that another controller may have an answer: this one gave none,
// or cannot for the moment.
func elsewhere(err error) bool {
	var refused *Error
	if !errors.As(err, &refused) {
		return true
	}
	return refused.Code == SwarmNotReady || refused.Code == ClockUntrusted
}

// callAt makes one call at an address.
func (c *Client) callAt(ctx context.Context, where netip.AddrPort, client *http.Client, method, path string, body, answer any, most int64) error {
	ctx, cancel := context.WithTimeout(ctx, callTime)
	defer cancel()
	var content io.Reader
	if body != nil {
		data, err := json.Marshal(body)
		if err != nil {
			return err
		}
		content = bytes.NewReader(data)
	}
	request, err := http.NewRequestWithContext(ctx, method, "https://"+where.String()+path, content)
	if err != nil {
		return err
	}
	if body != nil {
		request.Header.Set("Content-Type", "application/json")
	}
	// Every call may be made twice. Saying so (net/http does not send an empty
	// one) has it made again where a kept connection turns out to be closed.
	request.Header["Idempotency-Key"] = []string{}
	response, err := client.Do(request)
	if err != nil {
		return unanswered(where, err)
	}
	defer response.Body.Close()
	data, err := io.ReadAll(io.LimitReader(response.Body, most+1))
	if err != nil {
		return unanswered(where, err)
	}
	if int64(len(data)) > most {
		return fmt.Errorf("the answer of %s has more than %d bytes", where, most)
	}
	if response.StatusCode < 200 || response.StatusCode > 299 {
		return refusal(response, data)
	}
	if err := json.Unmarshal(data, answer); err != nil {
		return fmt.Errorf("the answer of %s is not what it should be: %w", where, err)
	}
	return nil
}

// refusal is the error that an answer holds.
func refusal(response *http.Response, data []byte) error {
	e := new(Error)
	if err := json.Unmarshal(data, e); err != nil || e.Code == "" {
		e = &Error{Detail: fmt.Sprintf("answered %s", tidy(response.Status))}
	}
	e.Status, e.Detail, e.Code = response.StatusCode, tidy(e.Detail), Code(tidy(string(e.Code)))
	if seconds, err := strconv.Atoi(response.Header.Get("Retry-After")); err == nil && e.RetryAfterS <= 0 {
		e.RetryAfterS = seconds
	}
	return e
}

// What a call ends with where there was no answer, for errors.Is. Anything
// else is the network's.
var (
	// ErrCertificateTime is a certificate that is not valid by the own clock:
	// most likely that is off.
	ErrCertificateTime = errors.New("by this node's clock the certificate is not valid: the clock is off")
	// ErrImpostor is a server that is not who was called: it shows no
	// certificate of this cluster, or another slot's.
	ErrImpostor = errors.New("whoever answers there is not of this cluster, or not who was called: both images must be built with the same identity folder")
	// ErrNotAccepted is a server that does not accept this node's certificate.
	ErrNotAccepted = errors.New("the other end does not accept this node's certificate: both images must be built with the same identity folder")
)

// unanswered says what kept a call from being answered.
func unanswered(where netip.AddrPort, err error) error {
	// What http.Client puts around it repeats the address.
	var around *url.Error
	if errors.As(err, &around) {
		err = around.Err
	}
	var kind error
	var invalid x509.CertificateInvalidError
	var verification *tls.CertificateVerificationError
	var peer *PeerError
	var remote *net.OpError
	switch {
	case errors.As(err, &invalid) && invalid.Reason == x509.Expired:
		kind = ErrCertificateTime
	case errors.As(err, &verification), errors.As(err, &peer):
		kind = ErrImpostor
	case errors.As(err, &remote) && remote.Op == "remote error" && strings.Contains(remote.Err.Error(), "certificate"):
		kind = ErrNotAccepted
	default:
		return fmt.Errorf("no answer from the controller at %s: %w", where, err)
	}
	return fmt.Errorf("no answer from the controller at %s: %w (%w)", where, kind, err)
}
