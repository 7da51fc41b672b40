package difference

import (
	"bytes"
	"encoding/base64"
	"encoding/json"
	"fmt"
	"unicode/utf8"
)

// Text is text of an image: a file's name, a link's target, lines of a file.
// Nothing says that it is UTF-8. In JSON it is a string where it is, and else
// an object, {"base64": "…"}, that holds the bytes: JSON's strings cannot.
type Text string

type encodedText struct {
	Base64 *string `json:"base64"`
}

// MarshalJSON gives a string, or an object with the bytes.
func (t Text) MarshalJSON() ([]byte, error) {
	if utf8.ValidString(string(t)) {
		var b bytes.Buffer
		e := json.NewEncoder(&b)
		e.SetEscapeHTML(false)
		if err := e.Encode(string(t)); err != nil {
			return nil, err
		}
		return bytes.TrimSuffix(b.Bytes(), []byte("\n")), nil
	}
	encoded := base64.StdEncoding.EncodeToString([]byte(t))
	return json.Marshal(encodedText{&encoded})
}

// UnmarshalJSON takes what MarshalJSON gives.
func (t *Text) UnmarshalJSON(data []byte) error {
	if len(data) > 0 && data[0] == '{' {
		var e encodedText
		if err := json.Unmarshal(data, &e); err != nil {
			return err
		}
		if e.Base64 == nil {
			return fmt.Errorf("a text that is neither a string nor base64: %s", data)
		}
		raw, err := base64.StdEncoding.DecodeString(*e.Base64)
		if err != nil {
			return fmt.Errorf("a text that is no base64: %w", err)
		}
		*t = Text(raw)
		return nil
	}
	return json.Unmarshal(data, (*string)(t))
}

func texts(list []string) []Text {
	var all []Text
	for _, s := range list {
		all = append(all, Text(s))
	}
	return all
}
