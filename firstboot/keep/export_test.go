package keep

// SetFree replaces how free space is found out.
func SetFree(s *Store, free func(dir string) (int64, error)) { s.free = free }
