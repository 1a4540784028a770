const std = @import("std");

const beads = 10;
const colours = 5;

fn power(base: u64, exponent: u64) u64 {
    return if (exponent == 0) 1 else base * power(base, exponent - 1);
}

fn common(a: u64, b: u64) u64 {
    return if (b == 0) a else common(b, a % b);
}

// Colourings of a ring in which neighbours differ; a single bead is its own neighbour.
fn ring(n: u64) u64 {
    if (n == 1) return 0;
    const all = power(colours - 1, n);
    return if (n % 2 == 0) all + colours - 1 else all + 1 - colours;
}

// Burnside: the mean number of colourings that a turn or a flip leaves as they are.
pub fn main() void {
    var total: u64 = 0;
    for (0..beads) |turn| total += ring(common(turn, beads));
    total += beads / 2 * colours * power(colours - 1, beads / 2); // flips through two beads
    print(total / (2 * beads));
}

fn print(number: u64) void {
    var text: [32]u8 = undefined;
    const line = std.fmt.bufPrint(&text, "{d}\n", .{number}) catch unreachable;
    _ = std.os.linux.write(1, line.ptr, line.len);
}
