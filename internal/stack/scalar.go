package stack

import (
	"errors"
	"fmt"
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/docker/go-connections/nat"
)

func lapseCheck(_ *document, value any) error {
	if _, err := time.ParseDuration(value.(string)); err != nil {
		return errors.New("a time such as 90s or 1m30s is expected")
	}
	return nil
}

func sizeCheck(_ *document, value any) error {
	if n, ok := value.(int); ok && n < 0 {
		return errors.New("a size is not less than 0")
	}
	return nil
}

func oneOf(choices ...string) func(*document, any) error {
	return func(_ *document, value any) error {
		if text, ok := value.(string); ok && !slices.Contains(choices, text) {
			return fmt.Errorf("%.40q is none of %s", text, strings.Join(choices, " and "))
		}
		return nil
	}
}

// maxPorts is how many ports a range may have, and a service; maxAllPorts is how
// many a file may.
const (
	maxPorts    = 1024
	maxAllPorts = 8 * maxPorts
)

// portCheck checks a port in its short form. What ranges come to is bounded
// before they are written out.
func portCheck(d *document, value any) error {
	text, ok := value.(string)
	if !ok {
		n, whole := value.(int)
		if !whole {
			return fmt.Errorf("no port such as 8080:80 or 8080:80/udp is %v", value)
		}
		text = strconv.Itoa(n)
	}
	many := 1
	for _, part := range strings.FieldsFunc(text, func(r rune) bool { return r == ':' || r == '/' }) {
		low, high, ok := strings.Cut(part, "-")
		if !ok {
			continue
		}
		a, errA := strconv.Atoi(low)
		b, errB := strconv.Atoi(high)
		if errA == nil && errB == nil {
			many = max(many, b-a+1)
		}
	}
	if many > maxPorts {
		return fmt.Errorf("a range of more than %d ports: write a smaller one", maxPorts)
	}
	if d.ports += many; d.ports > maxAllPorts {
		return fmt.Errorf("with it the file has more than %d ports: publish fewer", maxAllPorts)
	}
	if _, err := nat.ParsePortSpec(text); err != nil {
		return fmt.Errorf("no port such as 8080:80 or 8080:80/udp is (%w)", err)
	}
	return nil
}
