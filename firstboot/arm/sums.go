package arm

import (
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path/filepath"
	"strings"
)

// Sums is the file of the boot partition that says what of it was there when the card
// was prepared: the kernel, and what starts the writer with it, in the form of
// sha256sum(1) with names from the partition's root. The initramfs has the modules of
// that kernel alone. With another one (apt upgrades it, and knows of no initramfs but
// its own) it would find no link, and the node would neither boot nor be written.
const Sums = "hatchery/prepared.sha256"

// Sum appends a file to the content of Sums.
func Sum(sums []byte, name string, content []byte) []byte {
	return fmt.Appendf(sums, "%x  %s\n", sha256.Sum256(content), name)
}

// checkSums sees that everything is there as it was when the card was prepared. Of a card
// without Sums nobody knows whether its kernel is the one that its initramfs is for: it
// is refused, since a node that is dead costs more than a card that is taken out once.
func checkSums(boot string) error {
	text, err := readSmall(filepath.Join(boot, Sums))
	if errors.Is(err, fs.ErrNotExist) {
		return &NotPreparedError{"its boot partition has no " + Sums + ", so it does not tell which kernel it was prepared for"}
	}
	if err != nil {
		return err
	}
	if len(text) == 0 {
		return &NotPreparedError{Sums + " is empty"}
	}
	for line := range strings.Lines(string(text)) {
		sum, name, ok := strings.Cut(strings.TrimSuffix(line, "\n"), "  ")
		want, err := hex.DecodeString(sum)
		if !ok || err != nil || len(want) != sha256.Size || !filepath.IsLocal(name) {
			return &NotPreparedError{Sums + " cannot be read"}
		}
		have, err := sumOf(filepath.Join(boot, name))
		switch {
		case errors.Is(err, fs.ErrNotExist):
			return &NotPreparedError{"its boot partition has no " + name}
		case err != nil:
			return err
		case have != [sha256.Size]byte(want):
			return &NotPreparedError{fmt.Sprintf("%s of its boot partition is another than when the card was prepared (upgraded or changed on the node?), and what is there to write the card was made for that one", name)}
		}
	}
	return nil
}

func sumOf(path string) (sum [sha256.Size]byte, err error) {
	f, err := os.Open(path)
	if err != nil {
		return sum, err
	}
	defer f.Close()
	h := sha256.New()
	if _, err := io.Copy(h, f); err != nil {
		return sum, fmt.Errorf("cannot read what the card is to boot: %w", err)
	}
	h.Sum(sum[:0])
	return sum, nil
}
