package hat

import (
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path/filepath"
	"strings"
	"unicode"
)

// ErrNoHAT is that of a board without a ClusterHAT.
var ErrNoHAT = errors.New("no ClusterHAT was found")

// product is what a ClusterHAT's EEPROM says it is.
const product = "ZC4:ClusterHAT"

// Identity is what a HAT's EEPROM says of it.
type Identity struct {
	Version Version
	UUID    string // empty if the version was named instead
}

// Detect reads what the firmware found of a HAT when the board started:
// proc/device-tree/hat under root.
func Detect(root string) (Identity, error) {
	dir := filepath.Join(root, "proc/device-tree/hat")
	name, err := property(dir, "product")
	switch {
	case errors.Is(err, fs.ErrNotExist):
		return Identity{}, fmt.Errorf("%w: when this board started, its firmware read no HAT's EEPROM. Seat the HAT with the power off; if it is there, name its version in cluster.yaml (hat: {version: 2.6})", ErrNoHAT)
	case err != nil:
		return Identity{}, fmt.Errorf("cannot tell whether there is a ClusterHAT: %w", err)
	case name != product:
		return Identity{}, fmt.Errorf("%w: the HAT of this board is %q. If that is wrong, name the ClusterHAT's version in cluster.yaml (hat: {version: 2.6})", ErrNoHAT, name)
	}
	number, err := property(dir, "product_ver")
	if err != nil {
		return Identity{}, fmt.Errorf("cannot tell the ClusterHAT's version: %w. Name it in cluster.yaml (hat: {version: 2.6})", err)
	}
	version, err := fromProductVersion(number)
	if err != nil {
		return Identity{}, fmt.Errorf("%w: %w. If it is one, name its version in cluster.yaml (hat: {version: 2.6})", ErrNoHAT, err)
	}
	uuid, err := property(dir, "uuid")
	if err != nil && !errors.Is(err, fs.ErrNotExist) {
		return Identity{}, err
	}
	return Identity{version, uuid}, nil
}

// property is a string of the device tree, without the zero byte at its end.
func property(dir, name string) (string, error) {
	f, err := os.Open(filepath.Join(dir, name))
	if err != nil {
		return "", err
	}
	defer f.Close()
	text, err := io.ReadAll(io.LimitReader(f, 256))
	if err != nil {
		return "", fmt.Errorf("cannot read %s: %w", f.Name(), err)
	}
	clean := strings.Map(func(r rune) rune {
		if !unicode.IsPrint(r) {
			return -1
		}
		return r
	}, string(text))
	return strings.TrimSpace(clean), nil
}
