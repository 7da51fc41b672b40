package download

import (
	"context"
	_ "crypto/sha512" // a digest may be one
	"errors"
	"fmt"
	"hash"
	"io"
	"net/http"
	"os"
	"path"
	"path/filepath"
	"strings"

	"github.com/opencontainers/go-digest"

	"hatchery/internal/progress"
)

// Options are what [Client.File] may know about a file beforehand.
type Options struct {
	Name   string // what progress calls it; "" is the last part of the URL's path
	Kind   string // what it is to be, for errors: "base image"
	Size   int64  // what it has, in bytes; 0 where that is unknown
	Most   int64  // bytes that such a file may have; 0 means 32 GiB
	Remedy string // what to do about a full disk but to make room: "move the cache"
}

// defaultMost is more than anything has that is published for these machines.
const defaultMost = 32 << 30

// How much a server sends that does not say how much it will is looked at
// every spaceStep bytes. It may not leave less free than spaceLeft, or than
// what came of it: what is unpacked from it needs room too.
const (
	spaceStep = 16 << 20
	spaceLeft = 256 << 20
)

// fileStep is how much is read, written and hashed at once: it stays in the
// processor's second-level cache.
const fileStep = 256 << 10

// maxChanges is how often the file behind a URL may become another one while
// it is fetched.
const maxChanges = 3

// File fetches a file into f, which the caller has to itself, and gives its
// digest and its size. The file has the digest want (SHA-256 or SHA-512) if
// there is one, and may then come over plain http; without, it comes over https
// as for [Client.Bytes], and its SHA-256 is given.
//
// What f holds is taken for the beginning of the file that an earlier run left,
// and not fetched again, where want can show that it was. Where File fails, f
// holds what the next run may go on from. An [*InputError] is a mistake in the
// URL, the digest or the size.
func (c *Client) File(ctx context.Context, url string, want digest.Digest, f *os.File, report progress.Reporter, o Options) (got digest.Digest, size int64, err error) {
	if want != "" && (want.Validate() != nil || want.Algorithm() != digest.SHA256 && want.Algorithm() != digest.SHA512) {
		return "", 0, fmt.Errorf("%q is no sha256 or sha512", want)
	}
	if o.Most == 0 {
		o.Most = defaultMost
	}
	if o.Name == "" {
		o.Name = path.Base(Shown(url))
	}
	t := &transfer{client: c, url: url, want: want, f: f, report: report, options: o}
	err = t.run(ctx)
	if t.task != nil {
		t.task.End(err)
	}
	if diskFull(err) {
		err = fmt.Errorf("%s is full: %s: %w", t.dir(), t.makeRoom(), err)
	}
	if err != nil {
		return "", 0, err
	}
	return t.digest(), t.have, nil
}

// A transfer is a file on its way. Its bytes are hashed as they come; what an
// earlier run left is hashed first.
type transfer struct {
	client  *Client
	url     string
	want    digest.Digest
	f       *os.File
	report  progress.Reporter
	options Options
	task    progress.Task

	hash hash.Hash
	have int64
	most int64 // that it ever had of this file: only what goes beyond is progress

	version version
	changes int  // of the version
	mixed   bool // what is here came in several parts, which may be of several files
	whole   bool // the server is not to be asked for parts
	asked   bool // whether there is more, after a body of unknown length
}

// A version tells a file from another one that is behind the same URL later.
// What the server does not tell is empty, or -1.
type version struct {
	etag, modified string
	size           int64
}

// differs says whether two answers are surely about different files.
func (v version) differs(other version) bool {
	return v.etag != "" && other.etag != "" && v.etag != other.etag ||
		v.modified != "" && other.modified != "" && v.modified != other.modified ||
		v.size >= 0 && other.size >= 0 && v.size != other.size
}

// vouchesFor says whether two answers are surely about the same file.
func (v version) vouchesFor(other version) bool {
	return !v.differs(other) && (v.tagged() && v.etag == other.etag || v.modified != "" && v.modified == other.modified)
}

// tagged says whether there is a tag that vouches for bytes, which a weak one
// does not (RFC 9110, 13.1.5).
func (v version) tagged() bool { return strings.HasPrefix(v.etag, `"`) }

// algorithm is that of the digest which is wanted.
func (t *transfer) algorithm() digest.Algorithm {
	if t.want != "" {
		return t.want.Algorithm()
	}
	return digest.SHA256
}

func (t *transfer) digest() digest.Digest { return digest.NewDigest(t.algorithm(), t.hash) }

func (t *transfer) dir() string { return filepath.Dir(t.f.Name()) }

func (t *transfer) run(ctx context.Context) error {
	if err := t.resume(ctx); err != nil {
		return err
	}
	for clean := false; ; clean = true {
		if t.want != "" && t.have > 0 && t.digest() == t.want {
			return nil // the last run was stopped after the last byte
		}
		if t.options.Size > 0 && t.have >= t.options.Size {
			if err := t.restart(); err != nil {
				return err
			}
		}
		if err := t.fetch(ctx); err != nil {
			return err
		}
		got := t.digest()
		if t.want == "" || got == t.want {
			return nil
		}
		head := make([]byte, HeadSize)
		n, _ := t.f.ReadAt(head, 0)
		mixed := t.mixed
		if err := t.restart(); err != nil {
			return err
		}
		if !mixed || clean {
			return &InputError{&DigestError{Want: t.want, Got: got, Head: head[:n]}}
		}
		// What the earlier run left may have been wrong, or the file behind
		// the URL another one since: once more, from the beginning.
		t.most, t.version, t.asked = 0, version{size: -1}, false
	}
}

// resume hashes what is there already.
func (t *transfer) resume(ctx context.Context) error {
	t.version.size = -1
	if t.want == "" {
		return t.restart() // nothing could show that it fits
	}
	t.hash, t.have = t.algorithm().Hash(), 0
	info, err := t.f.Stat()
	if err != nil {
		return err
	}
	buf := make([]byte, fileStep)
	for t.have < info.Size() {
		if err := ctx.Err(); err != nil {
			return err
		}
		n, err := t.f.ReadAt(buf[:min(fileStep, info.Size()-t.have)], t.have)
		if n == 0 {
			return err
		}
		t.hash.Write(buf[:n])
		t.have += int64(n)
	}
	t.most, t.mixed = t.have, t.have > 0
	return nil
}

// restart forgets what is there.
func (t *transfer) restart() error {
	if t.task != nil {
		t.task.End(errors.New("once more, from the beginning"))
		t.task = nil
	}
	t.hash, t.have, t.mixed = t.algorithm().Hash(), 0, false
	return t.f.Truncate(0)
}

// fetch gets the rest of the file, over several connections where one breaks.
func (t *transfer) fetch(ctx context.Context) error {
	err := t.client.retry(ctx, t.report, func(ctx context.Context) (int64, error) {
		err := t.attempt(ctx)
		brought := max(0, t.have-t.most)
		t.most = max(t.most, t.have)
		return brought, err
	})
	var again *passing
	if errors.As(err, &again) && t.want != "" && t.have > 0 {
		return fmt.Errorf("%w (%d bytes are kept: the next run goes on from there)", err, t.have)
	}
	return err
}

// attempt is one request.
func (t *transfer) attempt(ctx context.Context) error {
	header := http.Header{}
	// Without a digest, only the server can tell that a part is of the same file.
	if t.have > 0 && !t.whole && (t.want != "" || t.version.vouchesFor(t.version)) {
		header.Set("Range", fmt.Sprintf("bytes=%d-", t.have))
		if t.version.tagged() && (t.want == "" || t.changes < maxChanges) {
			header.Set("If-Range", t.version.etag)
		}
	}
	a, err := t.client.ask(ctx, t.url, header, t.want != "")
	if err != nil {
		return err
	}
	defer a.close()

	now := version{etag: a.Header.Get("ETag"), modified: a.Header.Get("Last-Modified"), size: -1}
	switch a.StatusCode {
	case http.StatusRequestedRangeNotSatisfiable:
		return t.noMore(a)
	case http.StatusPartialContent:
		r, ok := parseRange(a.Header.Get("Content-Range"))
		if !ok || r.first != t.have || a.ContentLength >= 0 && a.ContentLength != r.last-r.first+1 {
			t.whole = true
			return passingf("the server sent another range than the one asked for: %q", a.Header.Get("Content-Range"))
		}
		if now.size = r.size; now.size < 0 {
			now.size = t.version.size
		}
		if t.version.differs(now) || t.want == "" && !t.version.vouchesFor(now) {
			if err := t.changed(now); err != nil {
				return err
			}
		}
		t.mixed = true
	default:
		// All of it: the first answer, the server knows no ranges, or the
		// file is another one now.
		if t.have > 0 {
			if err := t.restart(); err != nil {
				return err
			}
		}
		now.size = a.ContentLength
		if t.version.differs(now) {
			if t.changes++; t.changes > maxChanges {
				return errChanges
			}
			t.most = 0
		}
	}
	t.version = now
	if err := t.announced(a); err != nil {
		return err
	}
	total := t.total()
	if t.task == nil {
		t.task = t.report.Begin("download "+t.options.Name, total)
		t.task.Add(t.have)
	}
	if err := t.receive(a); err != nil {
		return err
	}
	switch {
	case total >= 0 && t.have < total:
		return passingf("the connection ended after %d of %d bytes", t.have, total)
	case total < 0 && t.want != "" && !t.asked && t.digest() != t.want:
		t.asked = true
		return passingf("the server did not say how long the file is, and ended it after %d bytes", t.have)
	}
	return nil
}

var errChanges = errors.New("the file on the server changes again and again: try again later")

// total is how long the file is, as far as it is known; else -1.
func (t *transfer) total() int64 {
	if t.version.size < 0 && t.options.Size > 0 {
		return t.options.Size
	}
	return t.version.size
}

// noMore is what to do where the server has nothing after what is here.
func (t *transfer) noMore(a *answer) error {
	if text, ok := strings.CutPrefix(a.Header.Get("Content-Range"), "bytes */"); ok && t.asked && !t.mixed && text == fmt.Sprint(t.have) {
		return nil // so it was all
	}
	// What is here is no shorter than the file behind the URL, and its digest
	// is wrong, else this request had not been made.
	if err := t.restart(); err != nil {
		return err
	}
	return passingf("what was here did not fit")
}

// changed starts anew where the next part is of another file; nil where it is
// to be tried anyway. Servers that share a name give equal files different
// tags, so where the digest will tell, the tags are believed only so often.
func (t *transfer) changed(now version) error {
	if t.changes++; t.changes > maxChanges {
		if t.want == "" || t.version.size != now.size {
			return errChanges
		}
		return nil
	}
	if err := t.restart(); err != nil {
		return err
	}
	t.most, t.version = 0, version{size: -1}
	return passingf("the file on the server has changed")
}

// announced looks at how much is to come before any of it does.
func (t *transfer) announced(a *answer) error {
	if size := t.version.size; size >= 0 && t.options.Size > 0 && size != t.options.Size {
		hint := ""
		if strings.HasPrefix(a.Header.Get("Content-Type"), "text/html") {
			hint = "an HTML page (was it a log-in or error page?), "
		}
		return inputErrorf("the server says that the file has %d bytes, but %d are expected: it is another one, %scheck the URL",
			size, t.options.Size, hint)
	}
	if a.ContentLength < 0 {
		return nil
	}
	// Compared before adding: the server may claim any number.
	if a.ContentLength > t.options.Most-t.have {
		return inputErrorf("the server says that %d bytes are to come, after %d: more than %s is no %s; check the URL",
			a.ContentLength, t.have, size(t.options.Most), t.kind())
	}
	if free, ok := freeSpace(t.dir()); ok && free < a.ContentLength {
		return fmt.Errorf("%s are to come and %s has %s free: %s", size(a.ContentLength), t.dir(), size(free), t.makeRoom())
	}
	return nil
}

// kind names what the file is to be, after a "no".
func (t *transfer) kind() string {
	if t.options.Kind == "" {
		return "such file"
	}
	return t.options.Kind
}

func (t *transfer) makeRoom() string {
	if t.options.Remedy == "" {
		return "make room"
	}
	return "make room, or " + t.options.Remedy
}

// receive reads an answer, which net/http ends where its length is known.
func (t *transfer) receive(a *answer) error {
	limit, known := t.options.Most, a.ContentLength >= 0
	if t.options.Size > 0 {
		limit = min(limit, t.options.Size)
	}
	buf := make([]byte, fileStep)
	checked := t.have
	for {
		n, err := a.Read(buf)
		if int64(n) > limit-t.have {
			return errors.Join(t.tooLong(limit), t.restart())
		}
		if n > 0 {
			if _, err := t.f.WriteAt(buf[:n], t.have); err != nil {
				return err
			}
			t.hash.Write(buf[:n])
			t.have += int64(n)
			t.task.Add(int64(n))
		}
		if !known && t.have-checked >= spaceStep {
			checked = t.have
			if err := t.room(); err != nil {
				return err
			}
		}
		if errors.Is(err, io.EOF) {
			return nil
		}
		if err != nil {
			return err
		}
	}
}

func (t *transfer) tooLong(limit int64) error {
	if limit == t.options.Size {
		return inputErrorf("the server sends more than the %d bytes that are expected: it is another file, check the URL", limit)
	}
	return inputErrorf("the server does not say how long the file is, and %s have come: more than %s is no %s; check the URL",
		size(limit), size(limit), t.kind())
}

// room stops a body that does not say how long it is before it fills the
// disk. What came is removed then: it may well go on for ever.
func (t *transfer) room() error {
	free, ok := freeSpace(t.dir())
	if !ok || free >= min(t.have, spaceLeft) {
		return nil
	}
	err := fmt.Errorf("the server does not say how long the file is; after %s, %s has %s free: check the URL, %s; what came is removed",
		size(t.have), t.dir(), size(free), t.makeRoom())
	return errors.Join(err, t.restart())
}

// size shows a number of bytes.
func size(n int64) string {
	if n < 1<<20 {
		return fmt.Sprintf("%d bytes", n)
	}
	return fmt.Sprintf("%d MiB", n>>20)
}
