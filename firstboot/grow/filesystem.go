package grow

import (
	"encoding/binary"
	"errors"
	"fmt"
	"os"
)

// errNoExt4 says that the root has another file system.
var errNoExt4 = errors.New("its file system is no ext4")

// A fileSystem is the size that an ext4 file system has.
type fileSystem struct {
	blocks         int64
	blockSize      int64 // bytes
	blocksPerGroup int64
}

func (f fileSystem) size() int64 { return f.blocks * f.blockSize }

// granule is what the kernel's pages want of the number of blocks, as a mask.
func (f fileSystem) granule() int64 { return max(int64(os.Getpagesize())/f.blockSize, 1) - 1 }

// fills says whether the file system takes all of a partition.
func (f fileSystem) fills(size int64) bool { return size/f.blockSize&^f.granule() <= f.blocks }

func groupSize(f fileSystem) int64 { return f.blocksPerGroup * f.blockSize }

const superblockSize = 1024

// readFileSystem reads it from a partition. The superblock of a mounted one is
// in the same pages that the kernel changes.
func readFileSystem(device string) (fileSystem, error) {
	f, err := os.Open(device)
	if err != nil {
		return fileSystem{}, fmt.Errorf("cannot read the file system: %w", err)
	}
	defer f.Close()
	superblock := make([]byte, superblockSize)
	if _, err := f.ReadAt(superblock, 1024); err != nil {
		return fileSystem{}, fmt.Errorf("cannot read the file system of %s: %w", device, err)
	}
	return parseSuperblock(superblock)
}

// parseSuperblock reads what struct ext4_super_block (the kernel's
// fs/ext4/ext4.h) says of the size.
func parseSuperblock(b []byte) (fileSystem, error) {
	const incompat64bit = 0x80
	le := binary.LittleEndian
	if len(b) < superblockSize || le.Uint16(b[0x38:]) != 0xef53 {
		return fileSystem{}, errNoExt4
	}
	logSize, perGroup := le.Uint32(b[0x18:]), le.Uint32(b[0x20:])
	blocks := uint64(le.Uint32(b[0x4:]))
	if le.Uint32(b[0x60:])&incompat64bit != 0 {
		blocks |= uint64(le.Uint32(b[0x150:])) << 32
	}
	// Blocks have 1 to 64 KiB, and bytes are counted in 63 bits.
	if logSize > 6 || blocks == 0 || blocks > 1<<46 || perGroup == 0 {
		return fileSystem{}, fmt.Errorf("its superblock makes no sense: %d blocks of 2^%d KiB, %d a group", blocks, logSize, perGroup)
	}
	return fileSystem{blocks: int64(blocks), blockSize: 1024 << logSize, blocksPerGroup: int64(perGroup)}, nil
}
