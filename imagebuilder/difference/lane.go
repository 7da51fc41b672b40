package difference

import (
	"bytes"
	"context"
	"crypto/sha256"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"sync/atomic"

	"github.com/opencontainers/go-digest"

	"hatchery/imagebuilder/diskimage"
)

const (
	// batchSize is how many files a walk hands over at once.
	batchSize = 256
	// chunkSize is how much of a file is in memory while it is compared.
	chunkSize = 256 << 10
	// maxPath is the longest path that is followed: the kernel takes no longer
	// one. Without a bound, folders in folders would fill the memory with
	// their names.
	maxPath = 4096
)

// errUnread is why a content was not looked at.
var errUnread = errors.New("more content than the image has room for: the rest is not read")

// A lane is one of the two trees and the goroutine that has it to itself, for
// trees are for one at a time. It walks the tree, and between handing over one
// batch of files and the next it runs what is posted: reading contents. So both
// trees are read at the same time, and neither waits for its walk to end.
type lane struct {
	name    string
	tree    diskimage.Tree
	ctx     context.Context
	batches chan []diskimage.Node // closed when the walk is over
	jobs    chan func()
	err     error // of the walk; to be read once batches is closed
	tooLong int   // folders whose paths are too long; likewise
	free    chan []byte
	left    int64 // bytes that may still be read
	ended   chan struct{}
}

func startLane(ctx context.Context, name string, tree diskimage.Tree, limit int64) *lane {
	l := &lane{
		name: name, tree: tree, ctx: ctx,
		batches: make(chan []diskimage.Node, 2), jobs: make(chan func()),
		free: make(chan []byte, 6), left: limit, ended: make(chan struct{}),
	}
	for range cap(l.free) {
		l.free <- nil // made when it is needed
	}
	go l.run()
	return l
}

func (l *lane) run() {
	defer close(l.ended)
	var batch []diskimage.Node
	handOver := func() error {
		for {
			select {
			case l.batches <- batch:
				batch = nil
				return nil
			case job := <-l.jobs:
				job()
			case <-l.ctx.Done():
				return l.ctx.Err()
			}
		}
	}
	l.err = l.tree.Walk("/", func(n diskimage.Node) error {
		if len(n.Path) > maxPath {
			l.tooLong++
			if n.IsDir() {
				return fs.SkipDir
			}
			return nil
		}
		batch = append(batch, n)
		if len(batch) < batchSize {
			return nil
		}
		return handOver()
	})
	if l.err == nil {
		l.err = handOver()
	}
	close(l.batches)
	for {
		select {
		case job := <-l.jobs:
			job()
		case <-l.ctx.Done():
			return
		}
	}
}

// post has the lane run a job, which then has the tree to itself. It says no
// where the comparison is over.
func (l *lane) post(job func()) bool {
	select {
	case l.jobs <- job:
		return true
	case <-l.ctx.Done():
		return false
	}
}

// do is post, and waits for the job's end.
func (l *lane) do(job func()) error {
	done := make(chan struct{})
	if !l.post(func() { defer close(done); job() }) {
		return l.ctx.Err()
	}
	select {
	case <-done:
		return l.ctx.Err()
	case <-l.ended:
		return l.ctx.Err()
	}
}

// A piece is the next part of a file.
type piece struct {
	data []byte
	last bool // no more of this file
	err  error
}

// A contentReader reads a regular file, in pieces.
type contentReader struct {
	l    *lane
	file io.ReadCloser
}

func (l *lane) open(n *diskimage.Node) (*contentReader, error) {
	if n.Problem != "" {
		return nil, errors.New(n.Problem)
	}
	if n.Size > l.left {
		return nil, errUnread
	}
	f, err := l.tree.Open(n.Path)
	if err != nil {
		return nil, err
	}
	return &contentReader{l, f}, nil
}

// next fills p as far as the file goes.
func (r *contentReader) next(p []byte) (n int, last bool, err error) {
	if err := r.l.ctx.Err(); err != nil {
		return 0, false, err
	}
	if int64(len(p)) > r.l.left {
		p = p[:r.l.left+1]
	}
	n, err = io.ReadFull(r.file, p)
	r.l.left -= int64(n)
	switch {
	case r.l.left < 0:
		r.l.left = 0
		return 0, false, errUnread
	case errors.Is(err, io.EOF), errors.Is(err, io.ErrUnexpectedEOF):
		return n, true, nil
	}
	return n, false, err
}

func (r *contentReader) close() { r.file.Close() }

// stream reads a file and sends it piece by piece, the last one marked, until
// abandoned. Buffers come from free, whereto the receiver returns them.
func (l *lane) stream(n *diskimage.Node, out chan<- piece, abandoned *atomic.Bool) {
	send := func(p piece) bool {
		select {
		case out <- p:
			return true
		case <-l.ctx.Done():
			return false
		}
	}
	r, err := l.open(n)
	if err != nil {
		send(piece{last: true, err: err})
		return
	}
	defer r.close()
	for {
		if abandoned.Load() {
			send(piece{last: true})
			return
		}
		buffer := l.buffer()
		if buffer == nil {
			return
		}
		read, last, err := r.next(buffer)
		if !send(piece{buffer[:read], last || err != nil, err}) || last || err != nil {
			return
		}
	}
}

// buffer gives one that nobody uses; nil where the comparison is over.
func (l *lane) buffer() []byte {
	select {
	case buffer := <-l.free:
		if buffer == nil {
			buffer = make([]byte, chunkSize)
		}
		return buffer
	case <-l.ctx.Done():
		return nil
	}
}

// release gives a piece's buffer back.
func (l *lane) release(p piece) {
	if p.data != nil {
		l.free <- p.data[:chunkSize]
	}
}

// A content is what a regular file holds.
type content struct {
	sum  digest.Digest
	data []byte // nil unless it was wanted and is small enough
	text bool   // data is text
	size int64
	err  error
}

// read reads a file, and keeps what is in it if it has at most keep bytes and
// is text.
func (l *lane) read(n *diskimage.Node, keep int64) content {
	r, err := l.open(n)
	if err != nil {
		return content{err: err}
	}
	defer r.close()
	buffer := l.buffer()
	if buffer == nil {
		return content{err: l.ctx.Err()}
	}
	defer func() { l.free <- buffer }()
	hash := sha256.New()
	c := content{text: true}
	for {
		read, last, err := r.next(buffer)
		if err != nil {
			return content{err: err}
		}
		part := buffer[:read]
		hash.Write(part)
		c.size += int64(read)
		c.text = c.text && bytes.IndexByte(part, 0) < 0
		switch {
		case !c.text || c.size > keep:
			c.data = nil
		case int64(len(c.data)) == c.size-int64(read):
			c.data = append(c.data, part...)
		}
		if last {
			c.sum = digest.NewDigest(digest.SHA256, hash)
			return c
		}
	}
}

// wrap says which of the images an error is about.
func (l *lane) wrap(err error) error {
	return fmt.Errorf("cannot read the files of %s: %w", l.name, err)
}
