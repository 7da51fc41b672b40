package hat

import (
	"fmt"
	"regexp"
	"strconv"
	"strings"
)

// Version of a HAT, as printed on the board: 2.6.
type Version struct{ Major, Minor int }

func (v Version) String() string { return fmt.Sprintf("%d.%d", v.Major, v.Minor) }

var versionPattern = regexp.MustCompile(`^([1-9])(?:\.([0-9]|1[0-5]))?$`)

// ParseVersion reads a version as cluster.yaml has it: 2.6, or 2 for 2.0.
func ParseVersion(text string) (Version, error) {
	m := versionPattern.FindStringSubmatch(text)
	if m == nil {
		return Version{}, fmt.Errorf("%q is not a version of the ClusterHAT: write one such as 2.6", text)
	}
	var v Version
	v.Major, _ = strconv.Atoi(m[1])
	v.Minor, _ = strconv.Atoi(m[2]) // 0 if there is none
	if v.Major > 3 {
		return Version{}, fmt.Errorf("ClusterHAT %s is not known: there are versions 1, 2 and 3", v)
	}
	return v, nil
}

// fromProductVersion reads the HAT's product_ver: 0x0026 is 2.6.
func fromProductVersion(text string) (Version, error) {
	n, err := strconv.ParseUint(strings.TrimPrefix(text, "0x"), 16, 16)
	if err != nil || n < 0x10 || n > 0x3f {
		return Version{}, fmt.Errorf("its version %q is not one of a ClusterHAT (0x0010 to 0x003f)", text)
	}
	return Version{int(n >> 4), int(n & 0xf)}, nil
}

// hubInverted says whether the hub's bit is 0 when the hub is on.
func (v Version) hubInverted() bool { return v != Version{2, 0} }

// hasLED says whether bit 4 switches the LEDs.
func (v Version) hasLED() bool { return v.Major == 2 }
