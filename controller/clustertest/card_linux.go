package clustertest

import (
	"bytes"
	"context"
	"crypto/sha256"
	"encoding/binary"
	"encoding/hex"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"net"
	"os"
	"path/filepath"
	"strings"
	"time"

	"github.com/opencontainers/go-digest"

	"hatchery/firstboot/arm"
	"hatchery/internal/bootpart"
	"hatchery/internal/enginetest"
	"hatchery/internal/ext4"
	"hatchery/internal/layer"
	"hatchery/internal/nodefile"
	wire "hatchery/internal/reimage"
	"hatchery/internal/testtool"
	"hatchery/netboot/store"
	"hatchery/netboot/transfer"
)

// How an image of a slot's card is laid out, in bytes: what a build makes, but for the
// operating system.
const (
	mib       = 1 << 20
	bootStart = 4 * mib
	bootSize  = 36 * mib
	rootStart = bootStart + bootSize
	rootSize  = 40 * mib
	imageSize = rootStart + rootSize
	cardSize  = imageSize + 4*mib // a card is larger than its image
)

// A Release is what one build puts into a slot's image beside the slot's identity.
type Release struct {
	Name    string
	Preload []byte // an archive of container images, as docker save writes one; nil for none
}

// An Image is what was built for a slot: the base, which all slots share, and a layer
// over it.
type Image struct {
	Slot                int
	base, layer         digest.Digest
	basePath, layerPath string
}

// Digest names the image's content.
func (i *Image) Digest() string { return i.layer.String() }

// place is where a machine's card is.
func place(m *enginetest.Machine) arm.Place {
	return arm.Place{Disk: filepath.Join(m.Dir, "card", "disk"), Boot: filepath.Join(m.Dir, "card", "boot")}
}

// base makes the base image, once.
func (c *Cluster) base() (path string, d digest.Digest) {
	c.t.Helper()
	if c.basePath != "" {
		return c.basePath, c.baseDigest
	}
	testtool.Need(c.t, "mkfs.vfat")
	testtool.Need(c.t, "mke2fs")
	dir := c.t.TempDir()
	path = filepath.Join(dir, "base.img")
	boot, root := filepath.Join(dir, "boot"), filepath.Join(dir, "root")
	for _, f := range []struct {
		name string
		size int64
	}{{path, imageSize}, {boot, bootSize}} {
		c.must(os.WriteFile(f.name, nil, 0o600))
		c.must(os.Truncate(f.name, f.size))
	}
	testtool.Run(c.t, "mkfs.vfat", "-F", "32", "-s", "1", "-i", "12345678", "--invariant", boot)
	for _, d := range []string{"etc/hatchery/identity", "var/lib/hatchery/preload"} {
		c.must(os.MkdirAll(filepath.Join(root, d), 0o755))
	}
	testtool.Run(c.t, "mke2fs", "-q", "-F", "-t", "ext4", "-b", "4096", "-E", fmt.Sprintf("offset=%d,root_owner=0:0", rootStart), "-d", root, path, fmt.Sprintf("%dk", rootSize>>10))
	f, err := os.OpenFile(path, os.O_RDWR, 0)
	c.must(err)
	defer f.Close()
	table := make([]byte, 512)
	for i, p := range [][3]uint32{{0x0c, bootStart / 512, bootSize / 512}, {0x83, rootStart / 512, rootSize / 512}} {
		e := table[446+16*i:]
		e[4] = byte(p[0])
		binary.LittleEndian.PutUint32(e[8:], p[1])
		binary.LittleEndian.PutUint32(e[12:], p[2])
	}
	table[510], table[511] = 0x55, 0xaa
	_, err = f.WriteAt(table, 0)
	c.must(err)
	content, err := os.ReadFile(boot)
	c.must(err)
	_, err = f.WriteAt(content, bootStart)
	c.must(err)
	fat, err := bootpart.Open(f, bootStart, bootSize)
	c.must(err)
	c.must(fat.Mkdir("hatchery"))
	for name, content := range map[string]string{
		"hatchery/initramfs.img": "what starts cmd/reimage",
		wire.PreparedConfig:      "initramfs hatchery/initramfs.img followkernel\n", wire.PreparedCmdline: "hatchery.root=reimage\n",
		arm.Sums:     string(arm.Sum(nil, "hatchery/initramfs.img", []byte("what starts cmd/reimage"))),
		"config.txt": "arm_freq=700\n", "cmdline.txt": "root=/dev/mmcblk0p2\n",
	} {
		c.must(fat.WriteFile(name, []byte(content)))
	}
	c.must(fat.Close())
	_, err = f.Seek(0, io.SeekStart)
	c.must(err)
	sum := sha256.New()
	_, err = io.Copy(sum, f)
	c.must(err)
	c.basePath, c.baseDigest = path, digest.NewDigestFromEncoded(digest.SHA256, hex.EncodeToString(sum.Sum(nil)))
	return c.basePath, c.baseDigest
}

func (c *Cluster) must(err error) {
	c.t.Helper()
	if err != nil {
		c.t.Fatal(err)
	}
}

// A window is a part of a device.
type window struct {
	*layer.Layer
	at int64
}

func (w window) ReadAt(p []byte, off int64) (int, error)  { return w.Layer.ReadAt(p, w.at+off) }
func (w window) WriteAt(p []byte, off int64) (int, error) { return w.Layer.WriteAt(p, w.at+off) }

// Build makes a slot's image: node.json and identity as its card has them, and what
// the release adds, by the packages that a build edits images with.
func (c *Cluster) Build(m *enginetest.Machine, r Release) *Image {
	c.t.Helper()
	i := &Image{Slot: m.Slot, layerPath: filepath.Join(c.t.TempDir(), r.Name+".layer")}
	i.basePath, i.base = c.base()
	base, err := layer.OpenBase(i.basePath, i.base)
	c.must(err)
	defer base.Close()
	l, err := layer.Create(i.layerPath, base, base.Size())
	c.must(err)
	fat, err := bootpart.Open(l, bootStart, bootSize)
	c.must(err)
	c.must(fat.WriteFile("config.txt", []byte("arm_freq=700\n# "+r.Name+"\n")))
	c.must(fat.Close())
	root, err := ext4.Open(window{l, rootStart}, rootSize)
	c.must(err)
	id, err := c.Store.Target(m.Name, m.Slot, m.Hostname)
	c.must(err)
	for _, f := range []struct {
		path    string
		content []byte
		mode    fs.FileMode
	}{
		{"/etc/hatchery/node.json", c.node(m, id.Generation), 0o644},
		{"/etc/hatchery/identity/key.pem", id.Key, 0o600},
		{"/etc/hatchery/identity/certificate.pem", id.Certificate, 0o600},
		{"/etc/hatchery/identity/ca.pem", id.CA, 0o600},
		{"/etc/release", []byte(r.Name), 0o644},
		{"/var/lib/hatchery/preload/images.tar", r.Preload, 0o644},
	} {
		if f.content != nil {
			c.must(root.Create(f.path, bytes.NewReader(f.content), ext4.Attr{Mode: f.mode, ModTime: time.Unix(1763769600, 0)}))
		}
	}
	c.must(root.Flush())
	i.layer, err = l.Seal()
	c.must(err)
	c.must(l.Close())
	return i
}

// Push brings an image to the controller's store, as `hatchery push` does: both ends of
// that are at work, with a pipe in the place of ssh.
func (c *Cluster) Push(i *Image) *transfer.Result {
	c.t.Helper()
	m := c.Controller
	s, err := store.Open(filepath.Join(m.State(), nodefile.NetbootDir), store.Options{Run: filepath.Join(m.Run(), nodefile.NetbootDir)})
	c.must(err)
	defer s.Close()
	here, there := net.Pipe()
	received := make(chan error, 1)
	go func() {
		defer there.Close()
		_, err := transfer.Receive(context.Background(), there, s, nil)
		received <- err
	}()
	result, err := transfer.Send(context.Background(), here, transfer.Offer{
		By:      "somebody@workstation",
		Objects: []transfer.Source{{Kind: store.Base, Digest: i.base, Path: i.basePath}, {Kind: store.Layer, Digest: i.layer, Path: i.layerPath}},
		Slots:   []transfer.Assignment{{Slot: i.Slot, Base: i.base, Layers: []digest.Digest{i.layer}}},
	})
	here.Close()
	if err = errors.Join(err, <-received); err != nil {
		c.t.Fatal(err)
	}
	return result
}

// Insert puts a card into a slot whose machine is off, with an image on it, and has the
// machine be what that card makes of it.
func (c *Cluster) Insert(m *enginetest.Machine, i *Image) {
	c.t.Helper()
	p := place(m)
	c.must(os.MkdirAll(p.Boot, 0o755))
	chain, err := layer.OpenChain(i.basePath, i.base, i.layerPath)
	c.must(err)
	defer chain.Close()
	disk, err := os.Create(p.Disk)
	c.must(err)
	defer disk.Close()
	c.must(disk.Truncate(cardSize))
	buffer := make([]byte, mib)
	for at := int64(0); at < imageSize; at += int64(len(buffer)) {
		_, err := chain.Top().ReadAt(buffer, at)
		c.must(err)
		if bytes.ContainsFunc(buffer, func(r rune) bool { return r != 0 }) {
			_, err = disk.WriteAt(buffer, at)
			c.must(err)
		}
	}
	c.mu.Lock()
	c.cards[m] = true
	c.mu.Unlock()
	m.AddUnit(rebootTarget, reboot{func() { c.reboot(m) }})
	c.must(m.Wipe())
	c.must(unpack(m))
}

// Card opens a machine's card, to look at it.
func (c *Cluster) Card(m *enginetest.Machine) *os.File {
	c.t.Helper()
	f, err := os.Open(place(m).Disk)
	c.must(err)
	c.t.Cleanup(func() { f.Close() })
	return f
}

// Release is what is on a machine's card, by the card's own word, and the boot
// partition's.
func (c *Cluster) Release(m *enginetest.Machine) (root, boot string) {
	c.t.Helper()
	f := c.Card(m)
	defer f.Close()
	files, err := ext4.OpenReadOnly(io.NewSectionReader(f, rootStart, rootSize), rootSize)
	c.must(err)
	name, err := files.ReadFile("/etc/release")
	c.must(err)
	fat, err := bootpart.OpenReadOnly(f, bootStart, bootSize)
	c.must(err)
	config, err := fat.ReadFile("config.txt")
	c.must(err)
	_, boot, _ = strings.Cut(string(config), "# ")
	return string(name), strings.TrimSpace(boot)
}

// unpack has a machine that was wiped be what its card makes of it: nobody mounts one
// here. What the card does not hold is not there.
func unpack(m *enginetest.Machine) error {
	p := place(m)
	f, err := os.Open(p.Disk)
	if err != nil {
		return err
	}
	defer f.Close()
	fat, err := bootpart.OpenReadOnly(f, bootStart, bootSize)
	if err != nil {
		return err
	}
	if err := os.RemoveAll(p.Boot); err != nil {
		return err
	}
	err = fat.Walk("", func(path string, info bootpart.Info) error {
		to := filepath.Join(p.Boot, filepath.FromSlash(path))
		if info.Dir {
			return os.MkdirAll(to, 0o755)
		}
		content, err := fat.ReadFile(path)
		if err != nil {
			return err
		}
		return os.WriteFile(to, content, 0o644)
	})
	if err != nil {
		return err
	}
	root, err := ext4.OpenReadOnly(io.NewSectionReader(f, rootStart, rootSize), rootSize)
	if err != nil {
		return err
	}
	if err := os.RemoveAll(m.Etc()); err != nil {
		return err
	}
	for from, to := range map[string]string{"/etc/hatchery": m.Etc(), "/var/lib/hatchery": m.State()} {
		err := fs.WalkDir(root.IOFS(), strings.TrimPrefix(from, "/"), func(path string, d fs.DirEntry, err error) error {
			if err != nil {
				return err
			}
			at := filepath.Join(to, strings.TrimPrefix("/"+path, from))
			if d.IsDir() {
				return os.MkdirAll(at, 0o700)
			}
			info, err := d.Info()
			if err != nil {
				return err
			}
			content, err := root.ReadFile("/" + path)
			if err != nil {
				return err
			}
			return os.WriteFile(at, content, info.Mode().Perm())
		})
		if err != nil {
			return err
		}
	}
	return nil
}

// rebootTarget is what an agent starts that was armed.
const rebootTarget = "reboot.target"

// A reboot is that unit.
type reboot struct{ begin func() }

func (r reboot) Start() error  { go r.begin(); return nil }
func (r reboot) Stop() error   { return nil }
func (r reboot) Running() bool { return false }

// reboot starts a machine anew, which ends everything that runs there. With a boot
// partition that is armed, what comes first is what cmd/reimage is.
func (c *Cluster) reboot(m *enginetest.Machine) {
	c.mu.Lock()
	if c.ended {
		c.mu.Unlock()
		return
	}
	c.restarts.Add(1)
	c.mu.Unlock()
	defer c.restarts.Done()
	c.PowerOff(m)
	if err := c.bootCard(m); err != nil && c.ctx.Err() == nil {
		c.t.Errorf("%s does not start from its card: %v", m.Name, err)
	}
}

func (c *Cluster) bootCard(m *enginetest.Machine) error {
	p := place(m)
	now, err := os.ReadFile(filepath.Join(p.Boot, "config.txt"))
	if err != nil {
		return err
	}
	armed, err := os.ReadFile(filepath.Join(p.Boot, filepath.FromSlash(wire.PreparedConfig)))
	if err != nil {
		return err
	}
	if bytes.Equal(now, armed) {
		writer, err := c.process(c.ctx, m, "reimage", role{Write: true})
		if err != nil {
			return err
		}
		switch err := writer.Wait(c.ctx); code(err) {
		case 0:
			if err := m.Wipe(); err != nil {
				return err
			}
			if err := unpack(m); err != nil {
				return err
			}
		case untouched:
		default:
			return err
		}
	}
	if c.ctx.Err() != nil {
		return nil
	}
	if err := c.bootAgent(m, c.boot()); err != nil {
		return err
	}
	return c.preload(m)
}

// preload loads the images that the card brought, which is the agent's where it has a
// machine of its own.
func (c *Cluster) preload(m *enginetest.Machine) error {
	content, err := os.ReadFile(filepath.Join(m.State(), "preload", "images.tar"))
	if errors.Is(err, fs.ErrNotExist) {
		return nil
	}
	if err != nil {
		return err
	}
	for {
		// The engine may be stopped once more, for what is put back.
		if err = m.Engine().LoadImages(c.ctx, bytes.NewReader(content)); err == nil || c.ctx.Err() != nil {
			return nil
		}
		select {
		case <-c.ctx.Done():
		case <-time.After(200 * time.Millisecond):
		}
	}
}
