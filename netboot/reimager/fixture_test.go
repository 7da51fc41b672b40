package reimager_test

import (
	"bytes"
	"context"
	"crypto/sha256"
	"encoding/binary"
	"errors"
	"io"
	"math/rand/v2"
	"sync"
	"testing"
	"time"

	"hatchery/internal/reimage"
	"hatchery/netboot/reimager"
)

const (
	piece  = reimage.Piece
	sector = 512
)

// errCut is what everything gives once the power is gone.
var errCut = errors.New("the power is gone")

// errMedium is what a sector gives that cannot be read.
var errMedium = errors.New("input/output error")

// A fakeCard keeps what was written in a cache, sector by sector, until it is synced.
// When the power goes, any part of the cache may have reached the medium.
type fakeCard struct {
	mu     sync.Mutex
	medium []byte
	cache  map[int64][]byte // by sector
	order  []int64          // in which those were written
	left   int              // writes and syncs until the power goes; -1: it stays
	cut    bool
	writes int
	random *rand.Rand
	losing map[int64]int  // sectors that are lost, so many times
	unread map[int64]bool // sectors that cannot be read
}

func newCard(medium []byte) *fakeCard {
	return &fakeCard{medium: medium, cache: map[int64][]byte{}, left: -1, random: rand.New(rand.NewPCG(1, 2)), losing: map[int64]int{}, unread: map[int64]bool{}}
}

func (c *fakeCard) Size() int64 { return int64(len(c.medium)) }

func (c *fakeCard) ReadAt(b []byte, off int64) (int, error) {
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.cut {
		return 0, errCut
	}
	if off+int64(len(b)) > c.Size() {
		return 0, io.EOF
	}
	for done := 0; done < len(b); {
		at := off + int64(done)
		s, within := at/sector, at%sector
		if c.unread[s] {
			return done, errMedium
		}
		from, ok := c.cache[s]
		if !ok {
			from = c.medium[s*sector:][:sector]
		}
		done += copy(b[done:], from[within:])
	}
	return len(b), nil
}

// step counts towards the end of the power.
func (c *fakeCard) step() bool {
	if c.cut {
		return false
	}
	c.writes++
	if c.left == 0 {
		c.cut = true
		c.tear()
		c.cache, c.order = nil, nil
		return false
	}
	if c.left > 0 {
		c.left--
	}
	return true
}

// tear has some of what is not synced reach the medium.
func (c *fakeCard) tear() {
	some := c.random.IntN(len(c.order) + 1)
	kept := []func(i int) bool{
		func(int) bool { return c.random.IntN(2) == 0 },
		func(i int) bool { return i < some },  // as they were written, up to one
		func(i int) bool { return i >= some }, // the last ones first
		func(i int) bool { return i == some }, // one sector alone
		func(i int) bool { return i != some }, // all but that
		func(int) bool { return false },
		func(int) bool { return true },
	}[c.random.IntN(7)]
	for i, s := range c.order {
		if kept(i) {
			copy(c.medium[s*sector:], c.cache[s])
		}
	}
}

func (c *fakeCard) WriteAt(b []byte, off int64) (int, error) {
	c.mu.Lock()
	defer c.mu.Unlock()
	if off%sector != 0 || len(b)%sector != 0 || off+int64(len(b)) > c.Size() {
		return 0, errors.New("no whole sectors of the card")
	}
	if !c.cut {
		for i := 0; i < len(b); i += sector {
			s := (off + int64(i)) / sector
			if c.losing[s] > 0 {
				c.losing[s]--
				continue
			}
			if c.cache[s] == nil {
				c.order = append(c.order, s)
			}
			c.cache[s] = bytes.Clone(b[i : i+sector])
		}
	}
	if !c.step() {
		return 0, errCut
	}
	return len(b), nil
}

func (c *fakeCard) Sync() error {
	c.mu.Lock()
	defer c.mu.Unlock()
	if !c.step() {
		return errCut
	}
	for s, content := range c.cache {
		copy(c.medium[s*sector:], content)
	}
	clear(c.cache)
	c.order = nil
	return nil
}

func (c *fakeCard) Forget() error {
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.cut {
		return errCut
	}
	return nil
}

// A fakeController has an image.
type fakeController struct {
	mu     sync.Mutex
	image  []byte
	list   *reimage.List
	gone   bool // nothing is to be written
	begun  bool // what it was told last of the card
	fail   func(call string) error
	spoil  int // a piece that comes damaged, once; -1 for none
	told   []reimage.Progress
	pieces int // that were fetched
}

func newController(image []byte, bootStart, bootSize int64, free ...int) *fakeController {
	l := &reimage.List{Size: int64(len(image)), BootStart: bootStart, BootSize: bootSize}
	for at := 0; at < len(image); at += piece {
		sum := sha256.Sum256(image[at:min(at+piece, len(image))])
		l.Sums = append(l.Sums, sum[:]...)
	}
	for _, i := range free {
		clear(l.Sums[i*reimage.DigestSize:][:reimage.DigestSize])
	}
	return &fakeController{image: image, list: l, spoil: -1}
}

func (c *fakeController) call(name string) error {
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.fail != nil {
		return c.fail(name)
	}
	return nil
}

func (c *fakeController) Image(_ context.Context, begun bool) (*reimage.Image, error) {
	c.begun = begun
	if c.gone {
		return nil, reimager.ErrNothing
	}
	return c.list.Image("test"), c.call("image")
}

func (c *fakeController) List(_ context.Context, list string) ([]byte, error) {
	if list != c.list.Image("").List {
		return nil, reimager.ErrChanged
	}
	return reimage.AppendList(nil, c.list), c.call("list")
}

func (c *fakeController) Pieces(_ context.Context, list string, wanted reimage.Wanted) (io.ReadCloser, error) {
	if list != c.list.Image("").List {
		return nil, reimager.ErrChanged
	}
	if _, err := wanted.Pieces(c.list); err != nil {
		return nil, err
	}
	if err := c.call("pieces"); err != nil {
		return nil, err
	}
	var b bytes.Buffer
	for _, run := range wanted.Runs {
		for i := run[0]; i < run[0]+run[1]; i++ {
			at, n := c.list.Span(int(i))
			content := bytes.Clone(c.image[at : at+int64(n)])
			c.mu.Lock()
			c.pieces++
			if c.spoil == int(i) {
				content[7] ^= 1
				c.spoil = -1
			}
			c.mu.Unlock()
			b.Write(content)
		}
	}
	return io.NopCloser(&b), nil
}

func (c *fakeController) Tell(_ context.Context, _ string, p reimage.Progress) error {
	if err := p.Check(); err != nil {
		return err
	}
	if err := c.call("tell " + p.State); err != nil {
		return err
	}
	c.mu.Lock()
	defer c.mu.Unlock()
	c.told = append(c.told, p)
	return nil
}

// A layout says where the boot partition of an image is.
type layout struct {
	bootStart, bootSize int64
	kind                byte
}

// makeImage makes an image that is full of what seed gives: its boot partition begins
// with a sector that the boot ROM knows.
func makeImage(seed uint64, size int64, l layout) []byte {
	image := make([]byte, size)
	r := rand.New(rand.NewPCG(seed, 0))
	for at := 0; at < len(image); at += 8 {
		binary.LittleEndian.PutUint64(image[at:], r.Uint64())
	}
	clear(image[sector:l.bootStart]) // nobody's
	table := image[:sector]
	clear(table[446:510])
	e := table[446:]
	e[4] = l.kind
	binary.LittleEndian.PutUint32(e[8:], uint32(l.bootStart/sector))
	binary.LittleEndian.PutUint32(e[12:], uint32(l.bootSize/sector))
	table[510], table[511] = 0x55, 0xaa
	copy(image[l.bootStart:], "\xeb\x58\x90FAT")
	return image
}

// order is one as the agent writes it.
func order() *reimage.Order {
	return &reimage.Order{
		Version: reimage.OrderVersion, Operation: "test", Slot: 2, Cluster: "c", Controller: "172.19.181.254", Address: "172.19.181.2/24",
		Key: "key", Certificate: "certificate", CA: "ca", Time: time.Unix(1763769600, 0),
	}
}

// armed makes a card with an old system on it, and an order.
func armed(t *testing.T, old []byte, size int64) []byte {
	t.Helper()
	medium := make([]byte, size)
	copy(medium, old)
	card := newCard(medium)
	if err := reimage.WriteOrder(card, order()); err != nil {
		t.Fatal(err)
	}
	if err := card.Sync(); err != nil {
		t.Fatal(err)
	}
	return card.medium
}

// quick are options that wait for nothing.
func quick() reimager.Options {
	return reimager.Options{Pause: func(int) time.Duration { return time.Millisecond }}
}
