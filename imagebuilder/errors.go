package imagebuilder

// An InputError is a mistake in what the user gave (the base image, a file, a
// setting), as opposed to something that failed on the way.
type InputError struct{ Err error }

func (e *InputError) Error() string { return e.Err.Error() }
func (e *InputError) Unwrap() error { return e.Err }
