package ext4

import iofs "io/fs"

// Mknod makes a device, a named pipe or a socket, as the type bits of a.Mode
// say; without any, an empty regular file. major and minor are a device's.
func (fs *FS) Mknod(path string, a Attr, major, minor uint32) error {
	return fs.do("mknod", path, func() error {
		var typ uint16
		switch a.Mode.Type() {
		case 0:
			typ = modeRegular
		case iofs.ModeNamedPipe:
			typ = modeFifo
		case iofs.ModeSocket:
			typ = modeSocket
		case iofs.ModeDevice | iofs.ModeCharDevice:
			typ = modeChar
		case iofs.ModeDevice:
			typ = modeBlock
		default:
			return iofs.ErrInvalid
		}
		if (typ == modeChar || typ == modeBlock) && (major >= 1<<12 || minor >= 1<<20) {
			return iofs.ErrInvalid
		}
		p, err := fs.vacant(path)
		if err != nil {
			return err
		}
		in, err := fs.newInode(p.dir, typ|permBits(a.Mode), a)
		if err != nil {
			return err
		}
		if typ == modeChar || typ == modeBlock {
			in.setDevice(major, minor)
		}
		return fs.enter(p, in, fs.timeOf(a))
	})
}

// setDevice writes a device's number: in the first word of i_block if it fits
// eight bits each, else in the second, as the kernel does.
func (in *inode) setDevice(major, minor uint32) {
	if major < 256 && minor < 256 {
		put32(in.raw, inBlock, major<<8|minor)
	} else {
		put32(in.raw, inBlock+4, minor&0xFF|major<<8|(minor&^0xFF)<<12)
	}
	in.markDirty()
}

func (in *inode) device() (major, minor uint32) {
	if v := le32(in.raw, inBlock); v != 0 {
		return v >> 8 & 0xFF, v & 0xFF
	}
	v := le32(in.raw, inBlock+4)
	return v >> 8 & 0xFFF, v&0xFF | v>>12&0xFFF00
}
