package dpkg

import (
	"crypto/md5"
	"encoding/hex"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"math"
	"path"
	"slices"
	"strings"

	"hatchery/imagebuilder/deb"
	"hatchery/internal/ext4"
)

// data lays the package's files: what is no symbolic link in the order of the
// package, then the symbolic links, so that none of its own files goes through
// one of its own links (lib/dpkg/tarfn.c, tar_extractor).
func (k *unpacking) data(d *deb.Deb) error {
	contents, err := d.Data(k.ctx, k.left)
	if err != nil {
		return err
	}
	defer contents.Close()
	var links []*deb.Entry
	for {
		e, err := contents.Next()
		if errors.Is(err, io.EOF) {
			break
		}
		if err != nil {
			return err
		}
		k.left -= 512 + e.Size // its header, too
		if e.Mode&fs.ModeSymlink != 0 && !e.HardLink {
			links = append(links, e)
			continue
		}
		if err := k.lay(e, contents); err != nil {
			return err
		}
	}
	k.left = max(k.left, 0)
	clear(k.checked)
	for _, e := range links {
		if err := k.lay(e, nil); err != nil {
			return err
		}
	}
	return nil
}

// listName is an entry's path as dpkg keeps it.
func listName(p string) string {
	if p == "/" {
		return "/."
	}
	return p
}

// lay puts one file where it belongs (src/main/archives.c, tarobject). dpkg
// makes it beside its place and renames it at the end, so that a running system
// never lacks it; here nothing runs, and what an error leaves is thrown away,
// so that it is made in its place. What is there goes first: other names of
// the old file keep what they have.
func (k *unpacking) lay(e *deb.Entry, content io.Reader) error {
	if err := k.ctx.Err(); err != nil {
		return err
	}
	name := listName(e.Path)
	switch {
	case strings.Contains(name, "\n"):
		return fmt.Errorf("%q has a line break in it, which dpkg's lists cannot have", name)
	case len(e.Xattrs) > 0:
		return fmt.Errorf("%s has extended attributes, in a header that dpkg refuses", name)
	case k.goes[name]:
		return fmt.Errorf("%s is in the package, and its control file conffiles says that it is to be removed", name)
	}
	k.files = append(k.files, name)
	k.inArchive[name] = true
	if d := k.db.diversions[name]; d != nil && d.from != "" {
		by := "the administrator"
		if d.by != "" {
			by = "package " + d.by
		}
		return &InputError{fmt.Errorf("%s is where %s has diverted %s to", name, by, d.from)}
	}
	use := k.db.diverted(name, &k.c.record)
	k.db.activatePath(use, k.r)
	if err := k.checkWay(use); err != nil {
		return err
	}
	if !e.Mode.IsDir() || e.HardLink {
		for _, mount := range k.db.mounts {
			if strings.HasPrefix(use, mount+"/") {
				return &InputError{fmt.Errorf("%s belongs on the file system that the image mounts at %s, and packages are unpacked to the root alone: leave %s out", use, mount, k.c.name)}
			}
		}
	}
	there, err := k.whatIsThere(use)
	if err != nil {
		return err
	}
	keepsFolder, err := k.keepsFolder(e, use, there)
	if err != nil {
		return err
	}
	var kept, shared bool
	if !keepsFolder {
		if kept, shared, err = k.checkOwners(e, name, there); err != nil {
			return err
		}
	}
	switch {
	case kept:
		if k.isConf(name) {
			k.obsolete[name] = true
		}
		k.files = k.files[:len(k.files)-1]
		return nil
	case k.db.skips(e):
		delete(k.inArchive, name)
		k.filtered[name] = true
		return nil
	case keepsFolder:
		return nil
	case shared:
		return k.checkShared(e, name, use, there, content)
	}
	for _, suffix := range []string{newSuffix, tmpSuffix} {
		if err := k.root.RemoveAll(use + suffix); err != nil && !missing(err) {
			return err
		}
	}
	if err := k.checkAlias(e, name, use); err != nil {
		return err
	}
	target := use
	if k.isConf(name) {
		target += newSuffix
	} else if there != nil {
		remove := k.root.Remove
		if there.Mode.IsDir() {
			remove = k.root.RemoveAll
		}
		if err := remove(use); err != nil {
			return err
		}
	}
	if err := k.make(e, name, target, content); err != nil {
		return fmt.Errorf("cannot write %s: %w", target, err)
	}
	k.touched[path.Dir(target)] = true
	k.laid[name] = true
	return nil
}

// checkAlias makes sure that no two paths of a package are one file, because a
// folder is a link on this system. dpkg makes the second in the place of the
// first, beside both their places, and then cannot find the first.
func (k *unpacking) checkAlias(e *deb.Entry, name, use string) error {
	if k.isConf(name) {
		return nil
	}
	place := path.Join(k.checked[path.Dir(use)], path.Base(use))
	if other, ok := k.places[place]; ok && other != name {
		return fmt.Errorf("%s and %s are one file in this image, where a folder of theirs is a link: dpkg cannot unpack that either", other, name)
	}
	// Folders and devices dpkg puts in their place at once.
	if e.HardLink || e.Mode.IsRegular() || e.Mode&fs.ModeSymlink != 0 {
		k.places[place] = name
	}
	return nil
}

// whatIsThere looks at what is in a file's place; nil is nothing. What an
// interrupted dpkg has moved aside comes back.
func (k *unpacking) whatIsThere(use string) (*ext4.Info, error) {
	info, err := k.root.Lstat(use)
	if missing(err) {
		if err := k.root.Rename(use+tmpSuffix, use); missing(err) {
			return nil, nil
		} else if err != nil {
			return nil, err
		}
		info, err = k.root.Lstat(use)
	}
	if err != nil {
		return nil, err
	}
	return &info, nil
}

// keepsFolder says whether a folder, or a link to one, is where the package has
// one too: it stays as it is. So does a folder in the place of a link.
func (k *unpacking) keepsFolder(e *deb.Entry, use string, there *ext4.Info) (bool, error) {
	if there == nil || e.HardLink {
		return false, nil
	}
	switch {
	case e.Mode.IsDir():
		info, err := k.root.Stat(use)
		return err == nil && info.Mode.IsDir(), ignoreDangling(err)
	case e.Mode&fs.ModeSymlink == 0:
		return false, nil
	case there.Mode.IsDir():
		return true, nil
	case there.Mode&fs.ModeSymlink == 0:
		return false, nil
	}
	now, err := k.root.Stat(use)
	if err != nil || !now.Mode.IsDir() {
		return false, ignoreDangling(err)
	}
	to := e.Target
	if !strings.HasPrefix(to, "/") {
		to = path.Dir(use) + "/" + to // not joined: what .. leads to may depend on links
	}
	then, err := k.root.Stat(to)
	if err != nil {
		return false, ignoreDangling(err)
	}
	return then.Mode.IsDir() && then.Inode == now.Inode, nil
}

// ignoreDangling takes it for no error that a link leads nowhere.
func ignoreDangling(err error) error {
	if missing(err) || errors.Is(err, ext4.ErrLoop) {
		return nil
	}
	return err
}

// checkOwners makes sure that the package may have a file that others have
// too. kept says that the others' stays; shared, that the file is the same for
// another architecture's instance of this package.
func (k *unpacking) checkOwners(e *deb.Entry, name string, there *ext4.Info) (kept, shared bool, err error) {
	for _, other := range slices.Backward(k.db.owners[name]) {
		if other == k.r {
			continue
		}
		if other.name == k.c.name && other.same && k.c.same {
			shared = shared || there != nil && k.inSync
			continue
		}
		if d := k.db.diversions[name]; d != nil && d.to != "" && d.by != "" && (other.name == d.by || k.c.name == d.by) {
			continue
		}
		if there == nil && e.Mode.IsDir() && !e.HardLink {
			continue // it can only be a folder that both have
		}
		switch k.said[other] {
		case theirsStays:
			kept = true
			continue
		case oursReplaces:
			continue
		}
		if other.state == configFiles {
			continue
		}
		if k.isConf(name) && there != nil && there.Mode.IsRegular() && slices.ContainsFunc(other.conffiles, func(c conffile) bool { return c.obsolete && c.path == name }) {
			continue
		}
		ours, err := replaces(&k.c.record, other)
		if err != nil {
			return false, false, err
		}
		if ours {
			k.said[other] = oursReplaces
			continue
		}
		theirs, err := replaces(other, &k.c.record)
		if err != nil {
			return false, false, err
		}
		if !theirs {
			return false, false, &InputError{&FileConflictError{Path: name, Package: k.c.name, Owner: k.db.unambiguous(other), OwnerVersion: other.version}}
		}
		k.said[other], kept = theirsStays, true
		delete(k.inArchive, name)
	}
	return kept, shared, nil
}

const (
	oursReplaces = iota + 1
	theirsStays
)

// checkShared makes sure that a file is what another instance of the package
// has laid already, which is what dpkg demands of Multi-Arch: same.
func (k *unpacking) checkShared(e *deb.Entry, name, use string, there *ext4.Info, content io.Reader) error {
	different := &InputError{fmt.Errorf("%s is not the same as in the instance of %s for another architecture, which is in the image", name, k.c.name)}
	switch {
	case e.Mode&fs.ModeSymlink != 0:
		if there.Mode&fs.ModeSymlink == 0 {
			return different
		}
		if to, err := k.root.Readlink(use); err != nil || to != e.Target {
			return cmpError(err, different)
		}
		return nil
	case e.HardLink:
		k.digests[name] = k.digests[listName(e.Target)]
	case e.Mode.IsRegular():
		sum := md5.New()
		if _, err := io.Copy(sum, content); err != nil {
			return err
		}
		k.digests[name] = hex.EncodeToString(sum.Sum(nil))
	default:
		if there.Mode.Type() != e.Mode.Type() || there.Major != e.Major || there.Minor != e.Minor {
			return different
		}
		return nil
	}
	digest := ""
	if k.isConf(name) {
		for _, other := range k.db.byName[k.c.name] {
			for _, conf := range other.conffiles {
				if other != k.r && conf.path == name && !conf.obsolete && !conf.removeOnUpgrade {
					digest = conf.digest
				}
			}
		}
	} else if there.Mode.IsRegular() {
		var err error
		if digest, err = k.digest(use); err != nil {
			return err
		}
	}
	if digest != k.digests[name] {
		return different
	}
	return nil
}

func cmpError(err, otherwise error) error {
	if err != nil {
		return err
	}
	return otherwise
}

// digest gives the MD5 sum of a file of the image.
func (k *unpacking) digest(name string) (string, error) {
	f, err := k.root.OpenFile(name)
	if err != nil {
		return "", err
	}
	sum := md5.New()
	if _, err := io.Copy(sum, f); err != nil {
		return "", err
	}
	return hex.EncodeToString(sum.Sum(nil)), nil
}

// make makes a file, folder, link or device.
func (k *unpacking) make(e *deb.Entry, name, target string, content io.Reader) error {
	a := k.attributes(e, name)
	switch {
	case e.HardLink:
		return k.link(e, name, target, a)
	case e.Mode.IsDir():
		return k.root.Mkdir(target, a)
	case e.Mode&fs.ModeSymlink != 0:
		return k.root.Symlink(e.Target, target, a)
	case e.Mode.IsRegular():
		sum := md5.New()
		if err := k.root.Create(target, io.TeeReader(content, sum), a); err != nil {
			return err
		}
		k.digests[name] = hex.EncodeToString(sum.Sum(nil))
		k.plain = append(k.plain, target)
		return nil
	case e.Mode&(fs.ModeDevice|fs.ModeNamedPipe) != 0:
		return k.root.Mknod(target, a, e.Major, e.Minor)
	default:
		return fmt.Errorf("dpkg knows no file of this kind (%s)", e.Mode)
	}
}

// link makes another name of a file, and gives that what the package says of
// this name, as dpkg does.
func (k *unpacking) link(e *deb.Entry, name, target string, a ext4.Attr) error {
	of := listName(e.Target)
	from := k.db.diverted(of, &k.c.record)
	if k.isConf(of) {
		from += newSuffix
	}
	if err := k.root.Link(from, target); err != nil {
		return err
	}
	if err := k.root.Chown(target, a.UID, a.GID); err != nil {
		return err
	}
	if err := k.root.Chmod(target, a.Mode); err != nil {
		return err
	}
	if err := k.root.Chtimes(target, a.ModTime); err != nil {
		return err
	}
	if digest, ok := k.digests[of]; ok {
		k.digests[name] = digest
	}
	k.plain = append(k.plain, target)
	return nil
}

// attributes are what a file gets: the administrator's owner and mode where he
// has set them, else the package's, whose users and groups count by their names.
func (k *unpacking) attributes(e *deb.Entry, name string) ext4.Attr {
	a := ext4.Attr{Mode: e.Mode, UID: e.UID, GID: e.GID, ModTime: e.ModTime}
	if uid, ok := k.db.users.users[e.User]; ok {
		a.UID = uid
	}
	if gid, ok := k.db.users.groups[e.Group]; ok {
		a.GID = gid
	}
	if o, ok := k.db.overrides[name]; ok {
		a.UID, a.GID, a.Mode = o.uid, o.gid, e.Mode.Type()|o.mode
	}
	return a
}

// checkWay makes sure that no symbolic link on the way to a file leads above
// the root.
func (k *unpacking) checkWay(name string) error {
	dir := path.Dir(name)
	if k.checked[dir] != "" {
		return nil
	}
	var real []string
	var link, target string // followed last
	rest := strings.Split(dir, "/")
	for links := 0; len(rest) > 0; {
		part := rest[0]
		rest = rest[1:]
		switch part {
		case "", ".":
			continue
		case "..":
			if len(real) == 0 {
				return &EscapeError{Path: name, Link: link, Target: target}
			}
			real = real[:len(real)-1]
			continue
		}
		at := "/" + path.Join(append(slices.Clone(real), part)...)
		info, err := k.root.Lstat(at)
		if missing(err) {
			break // making the file will tell
		}
		if err != nil {
			return err
		}
		if info.Mode&fs.ModeSymlink == 0 {
			real = append(real, part)
			continue
		}
		if links++; links > math.MaxUint8 {
			return fmt.Errorf("cannot write %s: %w", name, ext4.ErrLoop)
		}
		link = at
		if target, err = k.root.Readlink(at); err != nil {
			return err
		}
		if strings.HasPrefix(target, "/") {
			real = nil
		}
		rest = append(strings.Split(target, "/"), rest...)
	}
	k.checked[dir] = "/" + path.Join(real...)
	return nil
}
