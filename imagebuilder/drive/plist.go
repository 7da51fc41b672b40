package drive

import (
	"bytes"
	"encoding/xml"
	"errors"
	"fmt"
	"io"
	"strconv"
	"strings"
)

// Limits of property lists, far beyond what diskutil and ioreg write.
const (
	plistBytes = 64 << 20
	plistDepth = 512
)

// parsePlist reads an XML property list, plist(5): a dict is a map[string]any,
// an array a []any; strings, dates and data are strings, the numbers int64
// (0 where they do not fit) and float64.
func parsePlist(content []byte) (any, error) {
	if len(content) > plistBytes {
		return nil, errors.New("a property list is too long")
	}
	decoder := xml.NewDecoder(bytes.NewReader(content))
	for {
		start, err := nextElement(decoder)
		if err != nil {
			return nil, fmt.Errorf("this is no property list: %w", err)
		}
		if start == nil {
			return nil, errors.New("this is no property list: it ends early")
		}
		if start.Name.Local == "plist" {
			continue
		}
		value, err := plistValue(decoder, start, 0)
		if err != nil {
			return nil, fmt.Errorf("this is no property list: %w", err)
		}
		return value, nil
	}
}

// nextElement is the next start of an element, nil at the end of the one around.
func nextElement(decoder *xml.Decoder) (*xml.StartElement, error) {
	for {
		token, err := decoder.Token()
		if errors.Is(err, io.EOF) {
			return nil, io.ErrUnexpectedEOF
		}
		if err != nil {
			return nil, err
		}
		switch token := token.(type) {
		case xml.StartElement:
			return &token, nil
		case xml.EndElement:
			return nil, nil
		}
	}
}

func plistValue(decoder *xml.Decoder, start *xml.StartElement, depth int) (any, error) {
	if depth > plistDepth {
		return nil, errors.New("it is nested too deeply")
	}
	switch start.Name.Local {
	case "dict":
		dict := map[string]any{}
		for {
			element, err := nextElement(decoder)
			if err != nil || element == nil {
				return dict, err
			}
			if element.Name.Local != "key" {
				return nil, fmt.Errorf("a dict has %q where a key should be", element.Name.Local)
			}
			key, err := plistText(decoder)
			if err != nil {
				return nil, err
			}
			if element, err = nextElement(decoder); err != nil {
				return nil, err
			}
			if element == nil {
				return nil, fmt.Errorf("the key %q has no value", key)
			}
			if dict[key], err = plistValue(decoder, element, depth+1); err != nil {
				return nil, err
			}
		}
	case "array":
		array := []any{}
		for {
			element, err := nextElement(decoder)
			if err != nil || element == nil {
				return array, err
			}
			value, err := plistValue(decoder, element, depth+1)
			if err != nil {
				return nil, err
			}
			array = append(array, value)
		}
	case "true", "false":
		_, err := plistText(decoder)
		return start.Name.Local == "true", err
	}
	content, err := plistText(decoder)
	if err != nil {
		return nil, err
	}
	switch start.Name.Local {
	case "string", "date", "data":
		return content, nil
	case "integer":
		n, err := strconv.ParseInt(strings.TrimSpace(content), 0, 64)
		if err != nil {
			return int64(0), nil // of 64 bits without a sign, which no size has
		}
		return n, nil
	case "real":
		f, err := strconv.ParseFloat(strings.TrimSpace(content), 64)
		if err != nil {
			return 0.0, nil
		}
		return f, nil
	}
	return nil, fmt.Errorf("it has a %q", start.Name.Local)
}

// plistText is the text up to the end of the element.
func plistText(decoder *xml.Decoder) (string, error) {
	var text strings.Builder
	for {
		token, err := decoder.Token()
		if errors.Is(err, io.EOF) {
			return "", io.ErrUnexpectedEOF
		}
		if err != nil {
			return "", err
		}
		switch token := token.(type) {
		case xml.CharData:
			text.Write(token)
		case xml.StartElement:
			return "", fmt.Errorf("a text has %q inside", token.Name.Local)
		case xml.EndElement:
			return text.String(), nil
		}
	}
}

// A dict is a property list's, whose values may be of any type or missing.
type dict map[string]any

func (d dict) text(key string) string { s, _ := d[key].(string); return s }
func (d dict) flag(key string) bool   { b, _ := d[key].(bool); return b }
func (d dict) size(key string) int64  { n, _ := d[key].(int64); return n }

func (d dict) dicts(key string) []dict {
	array, _ := d[key].([]any)
	return dictsOf(array)
}

func dictsOf(array []any) (all []dict) {
	for _, value := range array {
		if one, ok := value.(map[string]any); ok {
			all = append(all, one)
		}
	}
	return all
}
