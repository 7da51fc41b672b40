package workload

import "context"

// Round makes one pass, as Run does.
func (s *Service) Round(ctx context.Context) error { return s.round(ctx) }

// ParseRecord is for the fuzz test.
func ParseRecord(data []byte) error {
	_, err := parseRecord(data)
	return err
}

// RegistryOf is the registry of an image.
var RegistryOf = registryOf
