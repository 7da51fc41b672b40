package operation

// ParseRecord reads what is written down of operations.
func ParseRecord(data []byte) (any, error) { return parseRecord(data) }
