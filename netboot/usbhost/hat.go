package usbhost

import (
	"errors"
	"fmt"
	"io/fs"
	"path/filepath"
	"strconv"
	"strings"
)

// hatProduct is what a ClusterHAT's EEPROM calls itself.
const hatProduct = "ZC4:ClusterHAT"

// ErrNoHAT says that the firmware found no ClusterHAT's EEPROM.
var ErrNoHAT = errors.New("no ClusterHAT has made itself known by its EEPROM")

// HATVersion reads the version of the ClusterHAT that sits on this controller,
// "2.6", from what the firmware has read from its EEPROM
// (/proc/device-tree/hat). The high and low half of product_ver are the version's
// two numbers.
func (h *Host) HATVersion() (string, error) {
	dir := filepath.Join(h.proc(), "device-tree", "hat")
	product, err := property(dir, "product")
	if errors.Is(err, fs.ErrNotExist) {
		return "", ErrNoHAT
	}
	if err != nil {
		return "", fmt.Errorf("reading the HAT's EEPROM: %w", err)
	}
	if product != hatProduct {
		return "", fmt.Errorf("%w: the HAT calls itself %q", ErrNoHAT, product)
	}
	text, err := property(dir, "product_ver")
	if err != nil {
		return "", fmt.Errorf("reading the HAT's EEPROM: %w", err)
	}
	number, err := strconv.ParseUint(strings.TrimPrefix(text, "0x"), 16, 16)
	if err != nil {
		return "", fmt.Errorf("the HAT's EEPROM has the version %q, which is no number", text)
	}
	return fmt.Sprintf("%d.%d", number>>4, number&0xf), nil
}

// property reads a text of the device tree.
func property(dir, name string) (string, error) {
	raw, err := attribute(dir, name, 256)
	return strings.Trim(string(raw), "\x00 \n"), err
}
