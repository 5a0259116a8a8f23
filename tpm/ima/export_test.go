package ima

// ParseMax is Parse with another limit than MaxEntries.
var ParseMax = parse
