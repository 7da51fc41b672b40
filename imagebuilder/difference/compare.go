package difference

import (
	"bytes"
	"context"
	"fmt"
	"path"
	"slices"
	"strings"
	"sync/atomic"

	"github.com/opencontainers/go-digest"
	"github.com/rogpeppe/go-internal/diff"

	"hatchery/imagebuilder/diskimage"
)

// Bounds of what a comparison holds at once. Each file costs what it takes to
// describe it.
const (
	pairBatch     = 512      // contents compared in one go
	textBatch     = 16 << 20 // bytes of text that are read for diffs in one go
	linkRoom      = 64 << 20 // for files with several names
	memoRoom      = 100_000  // pairs of such files whose contents were compared
	mostProblems  = 1000
	entryCost     = 400 // bytes, beside names
	roomPerListed = 1 << 10
)

// An entry is a file that differs, while not everything about it is known.
type entry struct {
	path        string
	was, is     *diskimage.Node // nil where it is not there
	differs     []string
	private     bool
	sums        [2]digest.Digest
	diff        string
	noDiff      string
	links       [2]string
	renamedFrom string
	with        bool
	gone        bool // it became part of another entry
}

// regular says whether the entry is a regular file in all images that have it.
func (e *entry) regular() bool {
	return (e.was == nil || e.was.Mode.IsRegular()) && (e.is == nil || e.is.Mode.IsRegular())
}

func (e *entry) contentDiffers() bool {
	return e.was == nil || e.is == nil || slices.Contains(e.differs, differsContent) || slices.Contains(e.differs, differsType)
}

// A comparison is one of two trees under way.
type comparison struct {
	ctx      context.Context
	o        Options
	lanes    [2]*lane // was, is
	entries  []*entry
	room     int64 // for entries, in bytes
	totals   Totals
	touched  []Touched
	unlisted int
	problems problemList
	links    linkRecords
	pairs    []*pair
	memo     map[[2]fileID]*outcome
	text     []*entry // whose contents are to be read, and how much text they are
	textSize int64
	diffLeft int64
	paths    [2]string // where the boot partitions are mounted
	special  map[string]*[2]special
	cmdline  *Cmdline
	config   []Section
	packages []Package
	// partitions are those that the trees are put together of.
	partitions map[int]bool
}

// special is a file that is looked into.
type special struct {
	node    *diskimage.Node
	private bool
}

type problemList struct {
	list []Text
	more int
}

func (p *problemList) add(format string, args ...any) {
	if len(p.list) >= mostProblems {
		p.more++
		return
	}
	p.list = append(p.list, Text(fmt.Sprintf(format, args...)))
}

func (p *problemList) all() []Text {
	if p.more > 0 {
		return append(p.list, Text(fmt.Sprintf("and %d problems more", p.more)))
	}
	return p.list
}

// fileID names a file of one image, whatever its names.
type fileID struct {
	partition int
	inode     uint64
}

func idOf(n *diskimage.Node) fileID { return fileID{n.Partition, n.Inode} }

// A pair is a regular file that is in both images and of the same size.
type pair struct {
	was, is *diskimage.Node
	private bool
	differs []string // of its metadata
	*outcome
	again bool // the same two files are compared under other names
}

// An outcome is what comparing two contents gave.
type outcome struct {
	equal bool
	err   error
}

// CompareTrees says what two trees of files differ in; they must not be the
// same one. Of the result's Image only the names are filled in.
func CompareTrees(ctx context.Context, was, is diskimage.Tree, o Options) (*Difference, error) {
	o = o.withDefaults()
	d, _, err := compareTrees(ctx, was, is, o, [2]string{o.BootPath, o.BootPath})
	return d, err
}

func compareTrees(ctx context.Context, was, is diskimage.Tree, o Options, boot [2]string) (*Difference, map[int]bool, error) {
	ctx, cancel := context.WithCancel(ctx)
	wasName, isName := o.WasName, o.IsName
	if wasName == "" {
		wasName = "the first image"
	}
	if isName == "" {
		isName = "the second image"
	}
	c := &comparison{
		ctx: ctx, o: o,
		lanes:      [2]*lane{startLane(ctx, wasName, was, o.ReadLimit), startLane(ctx, isName, is, o.ReadLimit)},
		room:       int64(o.Listed) * roomPerListed,
		memo:       map[[2]fileID]*outcome{},
		diffLeft:   o.DiffTotal,
		paths:      boot,
		special:    map[string]*[2]special{},
		partitions: map[int]bool{},
	}
	for i := range c.paths {
		for _, name := range []string{cmdlineName, configName} {
			c.special[strings.TrimSuffix(c.paths[i], "/")+"/"+name] = &[2]special{}
		}
	}
	c.special[statusPath] = &[2]special{}
	defer func() {
		cancel()
		<-c.lanes[0].ended
		<-c.lanes[1].ended
	}()
	if err := c.run(); err != nil {
		return nil, nil, err
	}
	return c.result(), c.partitions, nil
}

func (c *comparison) run() error {
	steps := []func() error{
		c.merge, c.comparePairs, c.readTexts, c.hardLinks, c.renames, c.readTexts, c.bootFiles, c.packagesOf,
	}
	for _, step := range steps {
		if err := step(); err != nil {
			return err
		}
		if err := c.ctx.Err(); err != nil {
			return err
		}
	}
	return nil
}

// merge goes through both trees at once and sorts out what differs.
func (c *comparison) merge() error {
	var cursors [2]cursor
	for i := range cursors {
		cursors[i].lane = c.lanes[i]
	}
	for {
		was, err := cursors[0].peek()
		if err != nil {
			return err
		}
		is, err := cursors[1].peek()
		if err != nil {
			return err
		}
		if was == nil && is == nil {
			break
		}
		order := 0
		switch {
		case was == nil:
			order = 1
		case is == nil:
			order = -1
		default:
			order = comparePaths(was.Path, is.Path)
		}
		if order > 0 {
			was = nil
		}
		if order < 0 {
			is = nil
		}
		if err := c.both(&cursors, was, is); err != nil {
			return err
		}
		for i, n := range []*diskimage.Node{was, is} {
			if n != nil {
				if err := cursors[i].next(); err != nil {
					return err
				}
			}
		}
	}
	for _, l := range c.lanes {
		if l.tooLong > 0 {
			c.problems.add("%s: the paths of %d folders are longer than %d bytes: what is in them was not looked at", l.name, l.tooLong, maxPath)
		}
	}
	return nil
}

// both takes one path: a file that is in either image, or in both.
func (c *comparison) both(cursors *[2]cursor, was, is *diskimage.Node) error {
	path := ""
	for _, n := range []*diskimage.Node{was, is} {
		if n != nil {
			path = n.Path
		}
	}
	named := c.o.Private(path)
	var private bool
	for i, n := range []*diskimage.Node{was, is} {
		if n == nil {
			continue
		}
		c.partitions[n.Partition] = true
		hidden := cursors[i].private(n, named) && !(n.Mode.IsRegular() && c.o.Public(path))
		private = private || hidden
		if n.Problem != "" {
			c.problems.add("%s: %s: %s", c.lanes[i].name, path, n.Problem)
		}
	}
	if s := c.special[path]; s != nil {
		s[0], s[1] = special{keep(was), private}, special{keep(is), private}
	}
	c.links.note(was, is, private)
	switch {
	case was == nil, is == nil:
		return c.record(&entry{path: path, was: was, is: is, private: private})
	}
	differs := metadata(was, is)
	sameSize := was.Mode.IsRegular() && is.Mode.IsRegular() && was.Size == is.Size
	if !sameSize || was.Size == 0 || c.o.Same(path) {
		return c.judged(was, is, private, differs)
	}
	p := &pair{was: was, is: is, private: private, differs: differs, outcome: &outcome{}}
	if was.Links > 1 && is.Links > 1 && was.Inode != 0 {
		id := [2]fileID{idOf(was), idOf(is)}
		if first := c.memo[id]; first != nil {
			p.outcome, p.again = first, true
		} else if len(c.memo) < memoRoom {
			c.memo[id] = p.outcome
		}
	}
	c.pairs = append(c.pairs, p)
	if len(c.pairs) >= pairBatch {
		return c.comparePairs()
	}
	return nil
}

// judged takes a file that is in both images, and of which all is known that
// differs.
func (c *comparison) judged(was, is *diskimage.Node, private bool, differs []string) error {
	switch {
	case len(differs) > 0:
		return c.record(&entry{path: is.Path, was: was, is: is, private: private, differs: differs})
	case is.Mode.IsRegular() && !was.ModTime.Equal(is.ModTime):
		c.totals.Touched++
		if len(c.touched) < c.o.Listed && c.spend(int64(len(is.Path))) {
			c.touched = append(c.touched, Touched{Path: Text(is.Path), Was: was.ModTime.UTC(), Is: is.ModTime.UTC()})
		}
	}
	return nil
}

func (c *comparison) spend(bytes int64) bool {
	if c.room < bytes {
		return false
	}
	c.room -= bytes
	return true
}

// record notes a file that differs, and has its content read if that is new.
func (c *comparison) record(e *entry) error {
	cost := int64(entryCost + len(e.path))
	for _, n := range []*diskimage.Node{e.was, e.is} {
		if n != nil {
			cost += int64(len(n.Target))
			for name, value := range n.Xattrs {
				cost += int64(len(name) + len(value))
			}
		}
	}
	if len(c.entries) >= c.o.Listed || !c.spend(cost) {
		c.unlisted++
		c.totals.count(e)
		return nil
	}
	e.was, e.is = keep(e.was), keep(e.is)
	c.entries = append(c.entries, e)
	return c.wantText(e)
}

// keep gives a node of its own, apart from those that were handed over with it.
func keep(n *diskimage.Node) *diskimage.Node {
	if n == nil {
		return nil
	}
	kept := *n
	return &kept
}

// wantText has an entry's contents read, by and by.
func (c *comparison) wantText(e *entry) error {
	if !e.contentDiffers() {
		return nil
	}
	for _, n := range []*diskimage.Node{e.was, e.is} {
		if n != nil && n.Mode.IsRegular() {
			c.textSize += min(n.Size, c.o.DiffFile)
		}
	}
	c.text = append(c.text, e)
	if len(c.text) >= pairBatch || c.textSize >= textBatch {
		return c.readTexts()
	}
	return nil
}

// comparePairs compares the contents of files of equal size.
func (c *comparison) comparePairs() error {
	pairs := c.pairs
	c.pairs = nil
	var todo []*pair
	for _, p := range pairs {
		if !p.again {
			todo = append(todo, p)
		}
	}
	abandoned := make([]atomic.Bool, len(todo))
	var streams [2]chan piece
	for i, l := range c.lanes {
		streams[i] = make(chan piece, 4)
		posted := l.post(func() {
			for k, p := range todo {
				l.stream([]*diskimage.Node{p.was, p.is}[i], streams[i], &abandoned[k])
			}
		})
		if !posted {
			return c.ctx.Err()
		}
	}
	for k, p := range todo {
		if err := c.compareStreams(p, streams, &abandoned[k]); err != nil {
			return err
		}
	}
	for _, p := range pairs {
		switch {
		case p.err != nil:
			c.problems.add("%s: %v", p.is.Path, p.err)
		case !p.equal:
			p.differs = append(p.differs, differsContent)
			sortDiffers(p.differs)
		}
		if err := c.judged(p.was, p.is, p.private, p.differs); err != nil {
			return err
		}
	}
	return nil
}

// compareStreams takes the two streams of one file to their ends.
func (c *comparison) compareStreams(p *pair, streams [2]chan piece, abandoned *atomic.Bool) error {
	p.equal = true
	var ended [2]bool
	for !ended[0] || !ended[1] {
		var pieces [2]piece
		for i := range streams {
			if ended[i] {
				continue
			}
			select {
			case pieces[i] = <-streams[i]:
			case <-c.ctx.Done():
				return c.ctx.Err()
			}
			ended[i] = pieces[i].last
			if pieces[i].err != nil && p.err == nil {
				p.err = fmt.Errorf("cannot read it in %s: %w", c.lanes[i].name, pieces[i].err)
			}
		}
		if !abandoned.Load() {
			p.equal = bytes.Equal(pieces[0].data, pieces[1].data) && ended[0] == ended[1]
			if !p.equal || p.err != nil {
				abandoned.Store(true)
			}
		}
		for i, l := range c.lanes {
			l.release(pieces[i])
		}
	}
	return nil
}

// readTexts reads the contents that differ, for their digests and diffs.
func (c *comparison) readTexts() error {
	todo := c.text
	c.text, c.textSize = nil, 0
	var contents [2][]content
	var done [2]chan struct{}
	for i, l := range c.lanes {
		contents[i] = make([]content, len(todo))
		done[i] = make(chan struct{})
		posted := l.post(func() {
			defer close(done[i])
			for k, e := range todo {
				if n := []*diskimage.Node{e.was, e.is}[i]; n != nil && n.Mode.IsRegular() {
					contents[i][k] = l.read(n, c.most(e))
				}
			}
		})
		if !posted {
			return c.ctx.Err()
		}
	}
	for i := range done {
		<-done[i]
	}
	if err := c.ctx.Err(); err != nil {
		return err
	}
	for k, e := range todo {
		c.digested(e, &contents[0][k], &contents[1][k])
	}
	return nil
}

// most is how much text of an entry is wanted.
func (c *comparison) most(e *entry) int64 {
	if e.private || asPackages(e) {
		return -1
	}
	return c.o.DiffFile
}

// asPackages says whether an entry is one of dpkg's own records, of which
// packages are compared, not lines; of the status file, unless that was tried
// and failed.
func asPackages(e *entry) bool {
	if e.path == statusPath {
		return e.noDiff == "" && e.was != nil && e.is != nil
	}
	return strings.HasPrefix(e.path, path.Dir(statusPath)+"/")
}

// Reasons for there being no diff.
const (
	noDiffBinary   = "binary"
	noDiffLarge    = "large"
	noDiffTooMuch  = "too-much"
	noDiffPackages = "packages"
	noDiffUnread   = "unread"
)

// digested takes the contents of an entry.
func (c *comparison) digested(e *entry, was, is *content) {
	e.sums = [2]digest.Digest{was.sum, is.sum}
	for i, got := range []*content{was, is} {
		if got.err != nil {
			c.problems.add("%s: cannot read it in %s: %v", e.path, c.lanes[i].name, got.err)
			e.noDiff = noDiffUnread
		}
	}
	if was.err != nil || is.err != nil || e.private {
		return
	}
	size, text := int64(0), true
	for i, n := range []*diskimage.Node{e.was, e.is} {
		if n != nil && n.Mode.IsRegular() {
			got := []*content{was, is}[i]
			size = max(size, got.size)
			text = text && got.text
		}
	}
	switch {
	case e.was != nil && e.is != nil && e.was.Mode.Type() != e.is.Mode.Type():
	case size == 0:
	case !text:
		e.noDiff = noDiffBinary
	case asPackages(e):
		e.noDiff = noDiffPackages
	case size > c.o.DiffFile:
		e.noDiff = noDiffLarge
	default:
		text := unified(was.data, is.data)
		if int64(len(text)) > c.diffLeft {
			e.noDiff = noDiffTooMuch
			return
		}
		c.diffLeft -= int64(len(text))
		e.diff, e.noDiff = text, ""
	}
}

// forgetDiff takes back what digested found.
func (c *comparison) forgetDiff(e *entry) {
	c.diffLeft += int64(len(e.diff))
	e.diff, e.noDiff = "", ""
}

// unified is a unified diff without the lines that name the files.
func unified(was, is []byte) string {
	text := diff.Diff("a", was, "b", is)
	for range 3 { // diff a b, --- a, +++ b
		_, text, _ = bytes.Cut(text, []byte("\n"))
	}
	return string(text)
}

// count adds an entry to the totals.
func (t *Totals) count(e *entry) {
	now := e.is
	tally := &t.Changed
	switch {
	case e.was == nil:
		tally = &t.Added
	case e.is == nil:
		tally, now = &t.Removed, e.was
	case e.renamedFrom != "" && len(e.differs) == 0:
		tally = &t.Renamed
	}
	switch {
	case now.Mode.IsRegular():
		tally.Files++
		if !e.private && (tally != &t.Changed || e.contentDiffers()) {
			tally.Bytes += now.Size
		}
	case now.IsDir():
		tally.Folders++
	default:
		tally.Other++
	}
}

func (c *comparison) result() *Difference {
	d := &Difference{
		Format: Format, Cmdline: c.cmdline, Config: c.config, Packages: c.packages,
		Files: []File{}, Touched: c.touched, Totals: c.totals, Unlisted: c.unlisted,
	}
	d.Image.Was.Name, d.Image.Is.Name = c.o.WasName, c.o.IsName
	slices.SortFunc(c.entries, func(a, b *entry) int { return comparePaths(a.path, b.path) })
	slices.SortFunc(d.Touched, func(a, b Touched) int { return comparePaths(string(a.Path), string(b.Path)) })
	d.Touched = slices.DeleteFunc(d.Touched, func(t Touched) bool {
		// A file that differs in nothing but its other names, too.
		_, listed := slices.BinarySearchFunc(c.entries, string(t.Path), func(e *entry, path string) int { return comparePaths(e.path, path) })
		if listed {
			d.Totals.Touched--
		}
		return listed
	})
	for _, e := range c.entries {
		if e.gone {
			continue
		}
		d.Totals.count(e)
		d.Files = append(d.Files, e.file(c.o.Reason(e.path)))
	}
	d.Problems = c.problems.all()
	return d
}

// file is what is told of an entry.
func (e *entry) file(reason string) File {
	f := File{
		Path: Text(e.path), Differs: e.differs, Private: e.private, From: Text(reason),
		RenamedFrom: Text(e.renamedFrom), With: e.with,
		Was: state(e.was, e.private, e.sums[0], e.links[0]), Is: state(e.is, e.private, e.sums[1], e.links[1]),
	}
	switch {
	case e.was == nil:
		f.Change = Added
	case e.is == nil:
		f.Change = Removed
	case e.renamedFrom != "":
		f.Change = Renamed
	default:
		f.Change = Changed
	}
	if !e.private {
		f.Diff, f.NoDiff = Text(e.diff), e.noDiff
	}
	return f
}

// differsOrder is how File.Differs is sorted.
var differsOrder = []string{
	differsType, differsMode, differsOwner, differsContent, differsTarget, differsDevice, differsXattrs, differsHardLinks,
}

func sortDiffers(list []string) {
	slices.SortFunc(list, func(a, b string) int { return slices.Index(differsOrder, a) - slices.Index(differsOrder, b) })
}
