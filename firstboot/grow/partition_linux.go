package grow

import (
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"strconv"
	"strings"

	"golang.org/x/sys/unix"

	"hatchery/internal/parttable"
)

// A partition is what the kernel knows of one that is mounted, in bytes.
type partition struct {
	name, disk  string // mmcblk0p2, mmcblk0
	number      int
	start, size int64
	diskSize    int64
	sector      int64  // the disk's own
	behind      string // a partition that starts later on the disk
}

// device is the partition's device file. In /sys a slash is an exclamation mark.
func (p *partition) device() string { return "/dev/" + strings.ReplaceAll(p.name, "!", "/") }

func (p *partition) diskDevice() string { return "/dev/" + strings.ReplaceAll(p.disk, "!", "/") }

// find gives the partition that is mounted there, or a reason why there is
// none. It goes by the device's number: a name like /dev/root says nothing.
func find(mount string) (*partition, string, error) {
	var stat unix.Stat_t
	if err := unix.Stat(mount, &stat); err != nil {
		return nil, "", fmt.Errorf("cannot see what is mounted on %s: %w", mount, err)
	}
	// The types of its numbers differ by architecture.
	device := uint64(stat.Dev)
	dir, err := filepath.EvalSymlinks(fmt.Sprintf("/sys/dev/block/%d:%d", unix.Major(device), unix.Minor(device)))
	if err == nil {
		_, err = os.Stat(filepath.Join(dir, "partition"))
	}
	if errors.Is(err, fs.ErrNotExist) {
		return nil, "the root is no partition of a disk", nil
	}
	if err != nil {
		return nil, "", fmt.Errorf("cannot see what is mounted on %s: %w", mount, err)
	}
	whole := filepath.Dir(dir)
	p := &partition{name: filepath.Base(dir), disk: filepath.Base(whole)}
	var number int64
	for _, attribute := range []struct {
		dir, name string
		to        *int64
		unit      int64 // /sys counts in 512 bytes, whatever the disk's sectors are
	}{
		{dir, "partition", &number, 1},
		{dir, "start", &p.start, parttable.SectorSize},
		{dir, "size", &p.size, parttable.SectorSize},
		{whole, "size", &p.diskSize, parttable.SectorSize},
		{whole, "queue/logical_block_size", &p.sector, 1},
	} {
		n, err := readNumber(filepath.Join(attribute.dir, attribute.name))
		if err != nil {
			return nil, "", err
		}
		*attribute.to = n * attribute.unit
	}
	p.number = int(number)
	others, err := filepath.Glob(filepath.Join(whole, "*", "start"))
	if err != nil {
		return nil, "", err
	}
	for _, other := range others {
		at, err := readNumber(other)
		if err != nil {
			return nil, "", err
		}
		if at*parttable.SectorSize > p.start {
			p.behind = filepath.Base(filepath.Dir(other))
		}
	}
	return p, "", nil
}

func readNumber(name string) (int64, error) {
	text, err := os.ReadFile(name)
	if err != nil {
		return 0, err
	}
	// Beyond this no number of sectors can be counted in bytes.
	n, err := strconv.ParseInt(strings.TrimSpace(string(text)), 10, 54)
	if err != nil || n < 0 {
		return 0, fmt.Errorf("%s says %q", name, text)
	}
	return n, nil
}
