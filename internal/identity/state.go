package identity

import (
	"bytes"
	"encoding/hex"
	"encoding/json"
	"errors"
	"fmt"
)

// stateFormat is the version of identity.json and target.json.
const stateFormat = 1

// secretSize is the length in bytes of the secret that ids are derived from.
const secretSize = 32

// maxNumber bounds generations and host key numbers.
const maxNumber = 1 << 30

// rootState is identity.json.
type rootState struct {
	Format  int      `json:"format"`
	Cluster string   `json:"cluster"`
	Secret  hexBytes `json:"secret"`
}

// targetState is target.json: which files of the target's folder are the
// present ones.
type targetState struct {
	Format     int `json:"format"`
	Generation int `json:"generation"`
	HostKey    int `json:"host_key"`
}

func encodeState(state any) ([]byte, error) {
	data, err := json.MarshalIndent(state, "", "  ")
	return append(data, '\n'), err
}

func parseRoot(data []byte) (rootState, error) {
	var s rootState
	if err := parseState(data, &s, &s.Format); err != nil {
		return rootState{}, err
	}
	switch {
	case !clusterPattern.MatchString(s.Cluster):
		return rootState{}, errors.New("names no cluster")
	case len(s.Secret) != secretSize:
		return rootState{}, fmt.Errorf("has a secret of %d bytes instead of %d", len(s.Secret), secretSize)
	}
	return s, nil
}

func parseTarget(data []byte) (targetState, error) {
	var s targetState
	if err := parseState(data, &s, &s.Format); err != nil {
		return targetState{}, err
	}
	for _, n := range []int{s.Generation, s.HostKey} {
		if n < 1 || n > maxNumber {
			return targetState{}, errors.New("has a number that is out of range")
		}
	}
	return s, nil
}

// parseState reads one JSON object. Its errors do not quote the file, which
// holds the secret.
func parseState(data []byte, state any, format *int) error {
	d := json.NewDecoder(bytes.NewReader(data))
	if err := d.Decode(state); err != nil {
		return errors.New("is not the JSON that it should be")
	}
	if len(bytes.TrimSpace(data[d.InputOffset():])) > 0 {
		return errors.New("has something behind its end")
	}
	if *format > stateFormat {
		return fmt.Errorf("is of format %d, which a newer hatchery wrote", *format)
	}
	if *format != stateFormat {
		return errors.New("has no known format")
	}
	return nil
}

// hexBytes are bytes that stand in JSON as hexadecimal digits.
type hexBytes []byte

func (b hexBytes) MarshalText() ([]byte, error) { return hex.AppendEncode(nil, b), nil }

func (b *hexBytes) UnmarshalText(text []byte) error {
	decoded, err := hex.DecodeString(string(text))
	*b = decoded
	return err
}
