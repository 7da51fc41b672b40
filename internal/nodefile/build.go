package nodefile

import (
	"encoding/hex"
	"fmt"
	"os"
	"strings"
)

// BuildFile has what its image is: a word that no other image has, in hexadecimal. The
// builder writes it, the agent tells it, and the controller knows by it which of the roots
// that were pushed the node's card holds.
const BuildFile = "/usr/lib/hatchery/build"

// buildSize is the length of that word, of a SHA-256.
const buildSize = 64

// ReadBuild reads a build file.
func ReadBuild(path string) (string, error) {
	f, err := os.Open(path)
	if err != nil {
		return "", err
	}
	defer f.Close()
	data := make([]byte, buildSize+2)
	n, _ := f.Read(data) // what is short is no build
	build := strings.TrimSuffix(string(data[:n]), "\n")
	return build, CheckBuild(build)
}

// CheckBuild says what is wrong with the name of an image.
func CheckBuild(build string) error {
	if _, err := hex.DecodeString(build); err != nil || len(build) != buildSize || strings.ToLower(build) != build {
		return fmt.Errorf("%.70q names no image: it should have %d digits in lower-case hexadecimal", build, buildSize)
	}
	return nil
}
