package cpucheck

var (
	Exceptions      = exceptions
	ParseExceptions = parseExceptions
)
