package baseimage

import (
	"context"
	"crypto/sha256"
	"errors"
	"fmt"
	"hash"
	"io"
	"net"
	"net/http"
	"net/url"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"syscall"
	"time"

	"github.com/opencontainers/go-digest"

	"hatchery/internal/progress"
)

// downloadAttempts is how often in a row a download may fail without a
// single byte of progress.
const downloadAttempts = 3

// maxDownload is more than any published image has, compressed or not.
const maxDownload = 32 << 30

// How much a server sends that does not say how much it will is looked at
// every spaceStep bytes. It may not leave less free than spaceLeft, or than
// what came of it: the image that is unpacked from it needs room too.
const (
	spaceStep = 16 << 20
	spaceLeft = 256 << 20
)

// maxRedirects is how many redirects in a row are followed.
const maxRedirects = 10

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

func newClient(transport http.RoundTripper) *http.Client {
	return &http.Client{Transport: transport, CheckRedirect: func(request *http.Request, via []*http.Request) error {
		if len(via) >= maxRedirects {
			return inputErrorf("the server redirects more than %d times in a row, to %s at last: check the URL",
				maxRedirects, discreet(request.URL.String()))
		}
		// It has the whole URL that led here, with its query.
		request.Header.Del("Referer")
		return nil
	}}
}

// A download is a file on its way into the cache. Its bytes are hashed as
// they come; what an earlier run left is hashed first and not fetched again.
type download struct {
	cache *Cache
	src   *source
	f     *os.File
	hash  hash.Hash
	have  int64
	task  progress.Task
}

// errTryAgain marks what another attempt may mend.
var errTryAgain = errors.New("cannot download it")

// download fetches a URL and gives the verified file. The caller holds the
// source's lock.
func (c *Cache) download(ctx context.Context, src *source) (*os.File, error) {
	place := filepath.Join(c.downloads(), src.digest.Encoded()+".part")
	f, err := os.OpenFile(place, os.O_RDWR|os.O_CREATE, 0o600)
	if err != nil {
		return nil, err
	}
	d := &download{cache: c, src: src, f: f}
	if err := d.run(ctx); err != nil {
		f.Close()
		if errors.Is(err, syscall.ENOSPC) {
			return nil, fmt.Errorf("%s is full: make room, or move the cache to a larger disk (XDG_CACHE_HOME): %w", c.downloads(), err)
		}
		return nil, err
	}
	return f, nil
}

func (d *download) run(ctx context.Context) error {
	if err := d.resume(ctx); err != nil {
		return err
	}
	resumed := d.have > 0
	for {
		if d.have > 0 && d.digest() == d.src.digest {
			return nil // the last run was stopped after the last byte
		}
		if err := d.fetch(ctx); err != nil {
			return err
		}
		got := d.digest()
		if got == d.src.digest {
			return nil
		}
		head := make([]byte, sniffSize)
		n, _ := d.f.ReadAt(head, 0)
		if err := d.restart(); err != nil {
			return err
		}
		if !resumed {
			return wrongDigest(d.src.digest, got, head[:n])
		}
		// What the earlier run left may have been wrong, or the file behind
		// the URL another one since.
		resumed = false
	}
}

func (d *download) digest() digest.Digest { return digestOf(d.hash) }

// resume hashes what is there already.
func (d *download) resume(ctx context.Context) error {
	info, err := d.f.Stat()
	if err != nil {
		return err
	}
	d.hash, d.have = sha256.New(), 0
	buf := make([]byte, hashStep)
	for d.have < info.Size() {
		if err := ctx.Err(); err != nil {
			return err
		}
		n, err := d.f.ReadAt(buf, d.have)
		if n == 0 {
			return err
		}
		d.hash.Write(buf[:n])
		d.have += int64(n)
	}
	return nil
}

// restart forgets what is there.
func (d *download) restart() error {
	d.hash, d.have = sha256.New(), 0
	return d.f.Truncate(0)
}

// fetch gets the rest of the file, over several connections where one breaks.
func (d *download) fetch(ctx context.Context) (err error) {
	defer func() {
		if d.task != nil {
			d.task.End(err)
			d.task = nil
		}
	}()
	for failed := 0; ; {
		before := d.have
		err := d.attempt(ctx)
		if ctx.Err() != nil {
			return ctx.Err()
		}
		if !errors.Is(err, errTryAgain) {
			return err
		}
		if failed++; d.have > before {
			failed = 1
		}
		if failed >= downloadAttempts {
			if d.have == 0 {
				return err
			}
			return fmt.Errorf("%w (%d bytes are kept: the next run goes on from there)", err, d.have)
		}
		select {
		case <-time.After(d.cache.pause << (failed - 1)):
		case <-ctx.Done():
			return ctx.Err()
		}
	}
}

// attempt is one request.
func (d *download) attempt(ctx context.Context) error {
	ctx, cancel := context.WithCancelCause(ctx)
	defer cancel(nil)
	request, err := http.NewRequestWithContext(ctx, http.MethodGet, d.src.url, nil)
	if err != nil {
		var parse *url.Error
		if errors.As(err, &parse) {
			err = parse.Err // without the URL, which is known
		}
		return inputErrorf("this URL cannot be used: %w", err)
	}
	// The digest is that of the file as it lies on the server.
	request.Header.Set("Accept-Encoding", "identity")
	request.Header.Set("User-Agent", "hatchery")
	if d.have > 0 {
		request.Header.Set("Range", fmt.Sprintf("bytes=%d-", d.have))
	}
	response, err := d.cache.client.Do(request)
	var input *InputError
	if errors.As(err, &input) {
		return input
	}
	if err != nil {
		return fmt.Errorf("%w: %w", errTryAgain, &discreetError{err})
	}
	defer response.Body.Close()
	switch code := response.StatusCode; {
	case code == http.StatusPartialContent && d.have > 0:
		if from, ok := rangeStart(response.Header.Get("Content-Range")); !ok || from != d.have {
			return fmt.Errorf("the server sent another range than the one asked for: %q", response.Header.Get("Content-Range"))
		}
	case code == http.StatusOK:
		if err := d.restart(); err != nil { // a server without ranges
			return err
		}
	case code == http.StatusRequestedRangeNotSatisfiable && d.have > 0:
		// What is here is no shorter than the file behind the URL, and its
		// digest is wrong, else this request had not been made.
		if err := d.restart(); err != nil {
			return err
		}
		return fmt.Errorf("%w: what was here did not fit", errTryAgain)
	case code >= 500 || code == http.StatusTooManyRequests || code == http.StatusRequestTimeout:
		return fmt.Errorf("%w: the server answers %s", errTryAgain, response.Status)
	case code >= 400:
		return inputErrorf("the server answers %s: check the URL", response.Status)
	default:
		return fmt.Errorf("the server answers %s", response.Status)
	}

	total := int64(-1)
	if response.ContentLength >= 0 {
		// Compared before adding: the server may claim any number.
		if response.ContentLength > d.cache.most-d.have {
			return inputErrorf("the server says that %d bytes are to come, after %d: more than %s is no base image; check the URL",
				response.ContentLength, d.have, size(d.cache.most))
		}
		if free, ok := freeSpace(d.cache.downloads()); ok && free < response.ContentLength {
			return fmt.Errorf("%s are to come and %s has %s free: make room, or move the cache to a larger disk (XDG_CACHE_HOME)",
				size(response.ContentLength), d.cache.downloads(), size(free))
		}
		total = d.have + response.ContentLength
	}
	if d.task == nil {
		d.task = d.src.report.Begin("download "+d.src.base(), total)
		d.task.Add(d.have)
	}
	return d.receive(ctx, cancel, response.Body, total >= 0)
}

// bounded stops a body that does not say how long it is before it fills the
// disk. What came is removed then: it may well go on for ever.
func (d *download) bounded() error {
	var err error
	dir := d.cache.downloads()
	if free, ok := freeSpace(dir); d.have > d.cache.most {
		err = inputErrorf("the server does not say how long the file is, and %s have come: more than %s is no base image; check the URL",
			size(d.have), size(d.cache.most))
	} else if ok && free < min(d.have, spaceLeft) {
		err = fmt.Errorf("the server does not say how long the file is; after %s, %s has %s free: check the URL, make room,"+
			" or move the cache to a larger disk (XDG_CACHE_HOME); what came is removed", size(d.have), dir, size(free))
	}
	if err != nil {
		return errors.Join(err, d.restart())
	}
	return nil
}

// size shows a number of bytes.
func size(n int64) string {
	if n < 1<<20 {
		return fmt.Sprintf("%d bytes", n)
	}
	return fmt.Sprintf("%d MiB", n>>20)
}

// receive reads a response's body, which net/http ends where its length is
// known. A body that stands still is given up.
func (d *download) receive(ctx context.Context, cancel context.CancelCauseFunc, body io.Reader, known bool) error {
	stalled := fmt.Errorf("nothing came for %v", d.cache.stall)
	watchdog := time.AfterFunc(d.cache.stall, func() { cancel(stalled) })
	defer watchdog.Stop()
	buf := make([]byte, hashStep)
	checked := d.have
	for {
		n, err := body.Read(buf)
		if n > 0 {
			watchdog.Reset(d.cache.stall)
			if _, err := d.f.WriteAt(buf[:n], d.have); err != nil {
				return err
			}
			d.hash.Write(buf[:n])
			d.have += int64(n)
			d.task.Add(int64(n))
		}
		if !known && (d.have > d.cache.most || d.have-checked >= spaceStep) {
			checked = d.have
			if err := d.bounded(); err != nil {
				return err
			}
		}
		switch {
		case errors.Is(err, io.EOF):
			return nil
		case err != nil && context.Cause(ctx) != nil:
			return fmt.Errorf("%w: %w", errTryAgain, context.Cause(ctx))
		case err != nil:
			return fmt.Errorf("%w: %w", errTryAgain, err)
		}
	}
}

// rangeStart reads the first number of `bytes 100-199/200`.
func rangeStart(header string) (int64, bool) {
	s, ok := strings.CutPrefix(header, "bytes ")
	if !ok {
		return 0, false
	}
	first, _, _ := strings.Cut(s, "-")
	n, err := strconv.ParseInt(first, 10, 64)
	return n, err == nil
}
