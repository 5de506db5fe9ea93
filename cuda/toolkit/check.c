// A program that is linked with two lazy libraries: one that is there, and one that is not.

#include <assert.h>
#include <string.h>

long cuPresentSum(long a, long b, long c, long d, long e, long f, long g, long h, double i, double j, double k,
                  double l, double m, double n, double o, double p, double q);
int cuPresentAbsentFunction(void);
int cuAbsentStatus(int, double);
const char *cuAbsentText(int);
unsigned long cuAbsentVersion(void);

int main(void) {
  for (int call = 0; call < 2; call++) {
    assert(cuPresentSum(1, 2, 3, 4, 5, 6, 7, 8, 1.5, 2.5, 3.5, 4.5, 5.5, 6.5, 7.5, 8.5, 9.5) == 204 + 615);
    assert(cuPresentAbsentFunction() == 22);
    assert(cuAbsentStatus(1, 2.0) == 33);
    assert(strstr(cuAbsentText(1), "libabsent.so"));
    assert(cuAbsentVersion() == 0);
  }
  return 0;
}
