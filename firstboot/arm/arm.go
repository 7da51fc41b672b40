package arm

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"log/slog"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"time"

	"hatchery/internal/enrol"
	"hatchery/internal/nodefile"
	"hatchery/internal/parttable"
	"hatchery/internal/reimage"
)

// A Place is where a node's card is.
type Place struct {
	Disk string // the whole card's device: /dev/mmcblk0
	Boot string // where its first partition is mounted: /boot/firmware
}

// Options are what an [Armer] works with.
type Options struct {
	Node     *nodefile.Node
	Identity string // its folder: enrol.IdentityDir
	BootID   string // the kernel's random/boot_id
	// Find finds the card; nil is [Find].
	Find func() (Place, error)
	// Restart starts the machine again; it may return before that happens.
	Restart func(ctx context.Context) error
	Now     func() time.Time
	Log     *slog.Logger
}

// An Armer arms a node, and disarms it.
type Armer struct {
	o    Options
	mu   sync.Mutex
	hook func(step string) // is told each step of what must survive a loss of power
}

// New makes one.
func New(o Options) *Armer {
	if o.Find == nil {
		o.Find = Find
	}
	if o.Now == nil {
		o.Now = time.Now
	}
	if o.Log == nil {
		o.Log = slog.New(slog.DiscardHandler)
	}
	return &Armer{o: o}
}

// ErrNoCard says that a node's root is on no card of its own.
var ErrNoCard = errors.New("this node's root is on no card of its own")

// A NotPreparedError says why a card cannot be written in place.
type NotPreparedError struct{ Why string }

func (e *NotPreparedError) Error() string {
	return "this card cannot be written in place: " + e.Why + ": build the slot's image again, and flash the card with it once more"
}

// largestFile bounds the files of a boot partition that are read, in bytes.
const largestFile = 256 << 10

// swaps are the files that change, in the order in which they do.
var swaps = []struct{ name, prepared, saved string }{
	{"cmdline.txt", reimage.PreparedCmdline, reimage.SavedCmdline},
	{"config.txt", reimage.PreparedConfig, reimage.SavedConfig},
}

// Armed gives the order that lies on the card: [reimage.ErrNoOrder] where there is none,
// [ErrNoCard] where there is no card.
func (a *Armer) Armed() (*reimage.Order, error) {
	a.mu.Lock()
	defer a.mu.Unlock()
	p, err := a.o.Find()
	if err != nil {
		return nil, err
	}
	card, err := os.Open(p.Disk)
	if err != nil {
		return nil, err
	}
	defer card.Close()
	return reimage.ReadOrder(card)
}

// Arm has the card written at the next start. It may be done again. Where it fails,
// everything is as before.
func (a *Armer) Arm(operation string) error {
	a.mu.Lock()
	defer a.mu.Unlock()
	if err := a.arm(operation); err != nil {
		return fmt.Errorf("cannot have the card written: %w", err)
	}
	return nil
}

func (a *Armer) arm(operation string) error {
	p, err := a.o.Find()
	if err != nil {
		return err
	}
	order, err := a.order(operation)
	if err != nil {
		return err
	}
	prepared, err := readPrepared(p.Boot)
	if err != nil {
		return err
	}
	card, err := os.OpenFile(p.Disk, os.O_RDWR, 0)
	if err != nil {
		return err
	}
	defer card.Close()
	if err := checkGap(card); err != nil {
		return err
	}
	if err := a.swap(p, card, order, prepared); err != nil {
		if undone := a.disarm(p, card); undone != nil {
			err = errors.Join(err, undone)
		}
		return err
	}
	return card.Close()
}

func (a *Armer) swap(p Place, card *os.File, order *reimage.Order, prepared [][]byte) error {
	for i, s := range swaps {
		now, err := readSmall(filepath.Join(p.Boot, s.name))
		if err != nil {
			return err
		}
		_, err = os.Lstat(filepath.Join(p.Boot, s.saved))
		if err == nil && bytes.Equal(now, prepared[i]) {
			continue // it was changed before, and this is what it was
		}
		if err := a.replace(p, s.saved, now); err != nil {
			return err
		}
	}
	if err := syncFS(p.Boot); err != nil {
		return err
	}
	if err := reimage.WriteOrder(stepping{card, a}, order); err != nil {
		return err
	}
	for i, s := range swaps {
		if err := a.replace(p, s.name, prepared[i]); err != nil {
			return err
		}
		if err := syncFS(p.Boot); err != nil {
			return err
		}
	}
	return nil
}

// Disarm has the node boot as it did before it was armed, and says whether there was
// anything to take back.
func (a *Armer) Disarm() (bool, error) {
	a.mu.Lock()
	defer a.mu.Unlock()
	p, err := a.o.Find()
	if errors.Is(err, ErrNoCard) {
		return false, nil
	}
	if err != nil {
		return false, fmt.Errorf("cannot take back that the card is written: %w", err)
	}
	card, err := os.OpenFile(p.Disk, os.O_RDWR, 0)
	if err != nil {
		return false, fmt.Errorf("cannot take back that the card is written: %w", err)
	}
	defer card.Close()
	_, err = reimage.ReadOrder(card)
	armed := !errors.Is(err, reimage.ErrNoOrder)
	for _, s := range swaps {
		if _, err := os.Lstat(filepath.Join(p.Boot, s.saved)); err == nil {
			armed = true
		}
		// What a cut left of the very first steps.
		if err := remove(filepath.Join(p.Boot, s.saved) + besideSuffix); err != nil {
			return false, fmt.Errorf("cannot take back that the card is written: %w", err)
		}
	}
	if !armed {
		return false, nil
	}
	if err := a.disarm(p, card); err != nil {
		return true, fmt.Errorf("cannot take back that the card is written: %w", err)
	}
	return true, card.Close()
}

func (a *Armer) disarm(p Place, card *os.File) error {
	// config.txt first: with it the initramfs is gone.
	for i := len(swaps) - 1; i >= 0; i-- {
		s := swaps[i]
		was, err := readSmall(filepath.Join(p.Boot, s.saved))
		if errors.Is(err, fs.ErrNotExist) {
			continue // it was not changed yet, or was restored
		}
		if err != nil {
			return err
		}
		if now, err := readSmall(filepath.Join(p.Boot, s.name)); err == nil && bytes.Equal(now, was) {
			continue
		}
		if err := a.replace(p, s.name, was); err != nil {
			return err
		}
		if err := syncFS(p.Boot); err != nil {
			return err
		}
	}
	if err := reimage.WipeOrder(stepping{card, a}); err != nil {
		return err
	}
	for _, s := range swaps {
		for _, name := range []string{s.name + besideSuffix, s.saved + besideSuffix, s.saved} {
			if err := remove(filepath.Join(p.Boot, name)); err != nil {
				return err
			}
			a.step("removed " + name)
		}
	}
	return syncFS(p.Boot)
}

// stepping is a card of which each write is a step.
type stepping struct {
	*os.File
	a *Armer
}

func (c stepping) WriteAt(b []byte, off int64) (int, error) {
	n, err := c.File.WriteAt(b, off)
	c.a.step(fmt.Sprintf("order at %d", off))
	return n, err
}

func remove(path string) error {
	if err := os.Remove(path); err != nil && !errors.Is(err, fs.ErrNotExist) {
		return err
	}
	return nil
}

func (a *Armer) step(name string) {
	if a.hook != nil {
		a.hook(name)
	}
}

// order is what lies on the card while it is written.
func (a *Armer) order(operation string) (*reimage.Order, error) {
	n := a.o.Node
	var parts [3][]byte
	for i, name := range []string{"key.pem", "certificate.pem", "ca.pem"} { // as enrol.LoadIdentity has them
		var err error
		if parts[i], err = readSmall(filepath.Join(a.o.Identity, name)); err != nil {
			return nil, err
		}
	}
	id, err := enrol.NewIdentity(parts[0], parts[1], parts[2])
	if err != nil {
		return nil, err
	}
	if id.Peer.Slot != n.Slot || id.Peer.Cluster != n.Cluster {
		return nil, fmt.Errorf("the identity is of %s, and this is slot %d of %s", id.Peer, n.Slot, n.Cluster)
	}
	return &reimage.Order{
		Version: reimage.OrderVersion, Operation: operation, Slot: n.Slot, Cluster: n.Cluster,
		Controller: n.ControllerAddr.String(), Address: n.Address.String(), Gadget: n.Gadget, Time: a.o.Now().UTC().Truncate(time.Second),
		Key: string(parts[0]), Certificate: string(parts[1]), CA: string(parts[2]),
	}, nil
}

// readPrepared reads the prepared files in the order of swaps, and sees that what they load
// is there.
func readPrepared(boot string) ([][]byte, error) {
	var all [][]byte
	for _, s := range swaps {
		content, err := readSmall(filepath.Join(boot, s.prepared))
		if errors.Is(err, fs.ErrNotExist) {
			return nil, &NotPreparedError{"its boot partition has no " + s.prepared}
		}
		if err != nil {
			return nil, err
		}
		if len(bytes.TrimSpace(content)) == 0 {
			return nil, &NotPreparedError{s.prepared + " is empty"}
		}
		all = append(all, content)
	}
	archives := initramfs(all[1])
	if len(archives) == 0 {
		return nil, &NotPreparedError{reimage.PreparedConfig + " loads no initramfs"}
	}
	for _, name := range archives {
		// No name leads out of the partition.
		if !filepath.IsLocal(name) {
			return nil, &NotPreparedError{fmt.Sprintf("%.80q is no file of its boot partition", name)}
		}
		if info, err := os.Stat(filepath.Join(boot, name)); err != nil || info.Size() == 0 {
			return nil, &NotPreparedError{"its boot partition has no " + name}
		}
	}
	return all, checkSums(boot)
}

// initramfs gives the archives that a config.txt loads: "initramfs NAME followkernel".
func initramfs(config []byte) []string {
	var names []string
	for line := range strings.Lines(string(config)) {
		words := strings.Fields(line)
		if len(words) >= 2 && words[0] == "initramfs" {
			names = append(names, words[1])
		}
	}
	return names
}

// checkGap sees that nobody else has something where the order is to lie, and that the card
// has nothing of which its image knows nothing: the image's partition table takes the
// card's place, and the root grows over all that is behind it.
func checkGap(card *os.File) error {
	size, err := card.Seek(0, io.SeekEnd)
	if err != nil {
		return err
	}
	table, err := parttable.Read(card, size)
	if err != nil {
		return err
	}
	for n, p := range table.Partitions {
		if p.Used() && n+1 != parttable.Boot && n+1 != parttable.Root {
			return &NotPreparedError{fmt.Sprintf("it has a partition %d, which would be lost (save what is on it)", n+1)}
		}
		if p.Used() && p.Start < reimage.OrderPlace+reimage.Piece {
			return &NotPreparedError{fmt.Sprintf("its partition %d begins at byte %d, where the order has to lie", n+1, p.Start)}
		}
	}
	var foreign *reimage.ForeignError
	if err := reimage.CheckPlace(card); errors.As(err, &foreign) {
		return &NotPreparedError{foreign.Error()}
	} else if err != nil {
		return err
	}
	return nil
}

// besideSuffix ends the names of files that are not whole yet.
const besideSuffix = ".new"

// replace puts content into a file of the boot partition: beside it, synced, renamed.
// FAT has no modes.
func (a *Armer) replace(p Place, name string, content []byte) (err error) {
	place := filepath.Join(p.Boot, name)
	beside := place + besideSuffix
	f, err := os.OpenFile(beside, os.O_CREATE|os.O_WRONLY|os.O_TRUNC, 0o755)
	if err != nil {
		return err
	}
	a.step("began " + name)
	_, err = f.Write(content)
	if err == nil {
		err = f.Sync()
	}
	if cerr := f.Close(); err == nil {
		err = cerr
	}
	a.step("beside " + name)
	if err == nil {
		err = os.Rename(beside, place)
	}
	if err != nil {
		os.Remove(beside)
		return fmt.Errorf("cannot write %s: %w", place, err)
	}
	a.step(name)
	return nil
}

func readSmall(path string) ([]byte, error) {
	f, err := os.Open(path)
	if err != nil {
		return nil, err
	}
	defer f.Close()
	data, err := io.ReadAll(io.LimitReader(f, largestFile+1))
	if err == nil && len(data) > largestFile {
		err = fmt.Errorf("%s has more than %d bytes", path, largestFile)
	}
	return data, err
}
