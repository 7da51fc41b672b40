// Package download fetches files from servers that cannot be relied on. They
// stand still, hang up, are busy, answer a part where all was asked for, or
// another part, send another file than a moment ago, or one without end. Each
// of these is retried, resumed or refused here, once for everything that
// hatchery fetches: base images, the list of them, and the digests beside them.
//
// Whatever comes must be guarded by something: [Client.File] by a digest,
// [Client.SignedBytes] by a signature, which is why these may come over plain
// http too; [Client.Bytes] by https alone, so it fetches plain http from this
// machine only and follows no redirect from https to http.
//
// A URL may carry a token in its query, or a password. No error and no
// progress shows more of it than scheme, host and path.
package download

import (
	"context"
	"crypto/tls"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/url"
	"strconv"
	"strings"
	"time"

	"hatchery/internal/progress"
)

// A Client fetches files. Its fields are set before it is used; then it may be
// used by any number of goroutines.
type Client struct {
	Stall     time.Duration     // a server from which nothing comes for so long has failed
	Pause     time.Duration     // before a second attempt; twice that before the third
	Patience  time.Duration     // how long a busy server (Retry-After) is waited for
	Transport http.RoundTripper // how servers are reached
	Offline   bool              // nothing is fetched: an [*OfflineError]
}

// New gives the client that users get. It goes through the proxy that the
// environment names (HTTPS_PROXY, HTTP_PROXY, NO_PROXY).
func New() *Client {
	return &Client{Stall: time.Minute, Pause: time.Second, Patience: 2 * time.Minute, Transport: newTransport()}
}

// newTransport speaks HTTP/1.1 and uses a connection once: net/http prints
// what comes on an idle connection, and breaches of HTTP/2, to the standard
// log, that is to stderr, whatever the user asked for. One large file gains
// nothing from either.
func newTransport() http.RoundTripper {
	return &http.Transport{
		Proxy:                 http.ProxyFromEnvironment,
		DialContext:           (&net.Dialer{Timeout: 30 * time.Second}).DialContext,
		TLSHandshakeTimeout:   30 * time.Second,
		ResponseHeaderTimeout: time.Minute,
		DisableKeepAlives:     true,
	}
}

const (
	// maxAttempts is how often in a row a download may fail without a single
	// byte of progress.
	maxAttempts = 3
	// maxTrickles is how many attempts may bring less than trickle bytes
	// before a server that hangs up all the time is given up.
	maxTrickles = 20
	trickle     = 64 << 10
	// maxRedirects is how many redirects in a row are followed.
	maxRedirects = 10
)

// A passing error is one that another attempt may mend.
type passing struct {
	err   error
	after time.Duration // the server asks to be left alone for so long
}

func (e *passing) Error() string { return "cannot download it: " + e.err.Error() }

func (e *passing) Unwrap() error { return e.err }

func passingf(format string, args ...any) error { return &passing{err: fmt.Errorf(format, args...)} }

// retry calls attempt until it succeeds or another try is in vain. An attempt
// says how many bytes of use it brought.
func (c *Client) retry(ctx context.Context, report progress.Reporter, attempt func(context.Context) (int64, error)) error {
	for failed, trickles := 0, 0; ; {
		brought, err := attempt(ctx)
		if ctx.Err() != nil {
			return ctx.Err()
		}
		var again *passing
		if !errors.As(err, &again) {
			return err
		}
		if failed++; brought > 0 {
			failed = 1
		}
		if brought < trickle {
			trickles++
		}
		if failed >= maxAttempts || trickles >= maxTrickles {
			return err
		}
		pause := c.Pause << (failed - 1)
		var task progress.Task
		if again.after > pause {
			pause = again.after
			task = report.Begin(fmt.Sprintf("wait %v, as the server asks", pause), -1)
		}
		err = sleep(ctx, pause)
		if task != nil {
			task.End(err)
		}
		if err != nil {
			return err
		}
	}
}

func sleep(ctx context.Context, d time.Duration) error {
	timer := time.NewTimer(d)
	defer timer.Stop()
	select {
	case <-timer.C:
		return nil
	case <-ctx.Done():
		return ctx.Err()
	}
}

// An answer is a response that has something of what was asked for: 200, 206,
// or 416 where a part was asked for. Reads from it fail with a [*passing] error
// where the connection breaks or stands still.
type answer struct {
	*http.Response
	watchdog *watchdog
}

// ask makes one request. Where plain is false, what comes has to come over https.
func (c *Client) ask(ctx context.Context, rawURL string, header http.Header, plain bool) (*answer, error) {
	if c.Offline {
		return nil, &OfflineError{}
	}
	ctx, watchdog := c.watch(ctx)
	response, err := c.exchange(ctx, rawURL, header, plain)
	if err == nil {
		if err = verdict(response, header.Get("Range") != "", c.Patience); err != nil {
			response.Body.Close()
		}
	}
	if err != nil {
		watchdog.stop()
		return nil, err
	}
	return &answer{response, watchdog}, nil
}

func (c *Client) exchange(ctx context.Context, rawURL string, header http.Header, plain bool) (*http.Response, error) {
	request, err := http.NewRequestWithContext(ctx, http.MethodGet, rawURL, nil)
	if err != nil {
		var parse *url.Error
		if errors.As(err, &parse) {
			err = parse.Err // without the URL, which is known
		}
		return nil, inputErrorf("this URL cannot be used: %w", err)
	}
	if err := checkScheme(request.URL, plain || loopback(request.URL.Hostname())); err != nil {
		return nil, err
	}
	secure := request.URL.Scheme == "https"
	request.Header = header.Clone()
	// Digests and lengths are those of the file as it lies on the server.
	request.Header.Set("Accept-Encoding", "identity")
	request.Header.Set("User-Agent", "hatchery")
	client := &http.Client{Transport: c.Transport, CheckRedirect: func(next *http.Request, via []*http.Request) error {
		if len(via) >= maxRedirects {
			return inputErrorf("the server redirects more than %d times in a row, to %s at last: check the URL",
				maxRedirects, discreet(next.URL.String()))
		}
		// It has the whole URL that led here, with its query.
		next.Header.Del("Referer")
		if next.URL.Scheme == "http" && !plain && (secure || !loopback(next.URL.Hostname())) {
			return inputErrorf("the server redirects to %s, which anybody on the way could tamper with: use a URL that stays with https",
				discreet(next.URL.String()))
		}
		secure = next.URL.Scheme == "https"
		return checkScheme(next.URL, true)
	}}
	response, err := client.Do(request)
	var input *InputError
	var certificate *tls.CertificateVerificationError
	switch {
	case err == nil && context.Cause(ctx) != nil:
		// The answer may be to the end of the question.
		response.Body.Close()
		return nil, &passing{err: context.Cause(ctx)}
	case err == nil:
		return response, nil
	case errors.As(err, &input):
		return nil, input
	case errors.As(err, &certificate):
		return nil, fmt.Errorf("the server's certificate is not to be trusted (is this machine's clock right?): %w", &discreetError{err})
	case context.Cause(ctx) != nil:
		return nil, &passing{err: context.Cause(ctx)}
	}
	return nil, &passing{err: &discreetError{err}}
}

func checkScheme(u *url.URL, plain bool) error {
	switch {
	case u.Scheme == "https" || u.Scheme == "http" && plain:
		return nil
	case u.Scheme == "http":
		return inputErrorf("http can be tampered with on the way: use https")
	}
	return inputErrorf("only https URLs are fetched, and this one is %q", u.Scheme)
}

// verdict tells the answers that lead on from those that do not.
func verdict(response *http.Response, part bool, patience time.Duration) error {
	switch code := response.StatusCode; {
	case code == http.StatusOK:
		return nil
	case part && (code == http.StatusPartialContent || code == http.StatusRequestedRangeNotSatisfiable):
		return nil
	case code == http.StatusPartialContent:
		return fmt.Errorf("the server sent another range than the one asked for, which was all: %q", response.Header.Get("Content-Range"))
	case code >= 500 || code == http.StatusTooManyRequests || code == http.StatusRequestTimeout:
		after := retryAfter(response.Header)
		err := fmt.Errorf("the server answers %s", response.Status)
		if after > patience {
			return fmt.Errorf("cannot download it: %w, and asks to come back in %v: try again then", err, after)
		}
		return &passing{err, after}
	case code == http.StatusNotFound || code == http.StatusGone:
		return &InputError{&NotFoundError{response.Status}}
	case code == http.StatusProxyAuthRequired:
		return inputErrorf("the proxy answers %s: give the account in HTTPS_PROXY", response.Status)
	case code >= 400:
		return inputErrorf("the server answers %s: check the URL", response.Status)
	}
	return fmt.Errorf("the server answers %s", response.Status)
}

// retryAfter reads the header of that name: seconds, or a date (RFC 9110,
// 10.2.3). What cannot be read is no wish.
func retryAfter(header http.Header) time.Duration {
	text := strings.TrimSpace(header.Get("Retry-After"))
	if seconds, err := strconv.ParseUint(text, 10, 31); err == nil {
		return time.Duration(seconds) * time.Second
	}
	at, err := http.ParseTime(text)
	if err != nil {
		return 0
	}
	// By the server's clock, if it tells.
	now, err := http.ParseTime(header.Get("Date"))
	if err != nil {
		now = time.Now()
	}
	return max(0, at.Sub(now).Round(time.Second))
}

// Read implements [io.Reader].
func (a *answer) Read(p []byte) (int, error) {
	n, err := a.Body.Read(p)
	if n > 0 {
		a.watchdog.pat()
	}
	if err == nil || errors.Is(err, io.EOF) && a.ContentLength >= 0 {
		return n, err
	}
	// Also of an end: a server that sees the connection close may end what it
	// did not say the length of.
	return n, a.watchdog.blame(err)
}

func (a *answer) close() {
	a.watchdog.stop()
	a.Body.Close()
}
