package outside

import "testing"

// TestOutside does what users do, with the working tree as if it were released.
func TestOutside(t *testing.T) {
	w := newWorld(t)
	t.Run("Get", w.testGet)
	t.Run("Install", w.testInstall)
	t.Run("FirstProgram", w.testFirstProgram)
	t.Run("Documents", w.testDocuments)
	t.Run("Recipes", w.testRecipes)
}
