const std = @import("std");

pub fn main() void {
    var square = std.mem.zeroes([100000]bool);
    var root: usize = 1;
    while (root * root < square.len) : (root += 1) square[root * root] = true;
    var total: u64 = 0;
    for (1..60001) |n| {
        var back: usize = 0;
        var rest = n;
        while (rest > 0) : (rest /= 10) back = 10 * back + rest % 10;
        if (square[if (n > back) n - back else back - n]) total += n;
    }
    print(total);
}

fn print(number: u64) void {
    var text: [32]u8 = undefined;
    const line = std.fmt.bufPrint(&text, "{d}\n", .{number}) catch unreachable;
    _ = std.os.linux.write(1, line.ptr, line.len);
}
