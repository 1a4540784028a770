const std = @import("std");

pub fn main() void {
    const limit = 200200;
    var composite = std.mem.zeroes([limit]bool);
    var total: u64 = 0;
    var before: usize = 2;
    var n: usize = 3;
    while (before < 200000) : (n += 2) {
        if (composite[n]) continue;
        var multiple = n * n;
        while (multiple < limit) : (multiple += n) composite[multiple] = true;
        var digits: usize = 0;
        var rest = before;
        while (rest > 0) : (rest /= 10) digits += rest % 10;
        if (n - before == digits) total += before;
        before = n;
    }
    print(total);
}

fn print(number: u64) void {
    var text: [32]u8 = undefined;
    const line = std.fmt.bufPrint(&text, "{d}\n", .{number}) catch unreachable;
    _ = std.os.linux.write(1, line.ptr, line.len);
}
