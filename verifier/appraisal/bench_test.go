package appraisal_test

type memory map[string]any

func (m memory) Recall(key string) any     { return m[key] }
func (m memory) Keep(key string, fact any) { m[key] = fact }
